(function () {
  var form = document.getElementById('filters');
  var lists = Array.prototype.slice.call(form.querySelectorAll('select'));
  var rows = Array.prototype.slice.call(document.querySelectorAll('tr[data-policy]'));
  function apply() {
    var shown = 0, total = 0;
    rows.forEach(function (row) {
      row.hidden = lists.some(function (list) {
        var own = row.getAttribute('data-' + list.name);
        return list.value !== '' && own !== null && own !== list.value;
      });
      if (form.parentNode.contains(row)) { total += 1; shown += row.hidden ? 0 : 1; }
    });
    form.querySelector('output').textContent = shown + ' of ' + total + ' cells';
  }
  function read() {
    var wanted = new URLSearchParams(location.hash.slice(1));
    lists.forEach(function (list) {
      var value = wanted.has(list.name) ? wanted.get(list.name) : '';
      if (!location.hash && list.name === 'horizon') { value = form.getAttribute('data-horizon'); }
      list.value = value;
      if (list.selectedIndex < 0) { list.value = ''; }
    });
    apply();
  }
  form.addEventListener('change', function () {
    var chosen = new URLSearchParams();
    lists.forEach(function (list) { if (list.value) { chosen.set(list.name, list.value); } });
    try {
      history.replaceState(null, '', '#' + (chosen.toString() || 'all'));
    } catch (error) { /* some viewers of files forbid it; the filter works all the same */ }
    apply();
  });
  form.addEventListener('submit', function (event) { event.preventDefault(); });
  window.addEventListener('hashchange', read);
  document.querySelectorAll('thead button').forEach(function (button) {
    button.addEventListener('click', function () {
      var head = button.closest('th'), body = head.closest('table').tBodies[0];
      var column = Array.prototype.indexOf.call(head.parentNode.children, head);
      var sign = head.getAttribute('aria-sort') === 'ascending' ? -1 : 1;
      Array.prototype.forEach.call(head.parentNode.children, function (other) {
        other.removeAttribute('aria-sort');
      });
      head.setAttribute('aria-sort', sign === 1 ? 'ascending' : 'descending');
      Array.prototype.slice.call(body.rows).map(function (row) {
        var cell = row.children[column], number = cell.getAttribute('data-value');
        return { row: row, number: number === null ? null : parseFloat(number), text: cell.textContent };
      }).sort(function (a, b) {
        if (a.number !== null && b.number !== null) { return sign * (a.number - b.number); }
        if (a.number !== null || b.number !== null) { return a.number === null ? 1 : -1; }
        return sign * a.text.localeCompare(b.text);
      }).forEach(function (entry) { body.appendChild(entry.row); });
    });
  });
  form.hidden = false;
  read();
})();
