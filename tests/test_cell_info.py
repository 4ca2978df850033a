"""What a cell is survives its file, whatever version wrote it."""

import json
from dataclasses import replace

import pytest

from experiments.results.cell_info import CellInfo
from tests.synthetic import make_cell


def test_an_info_survives_json() -> None:
    info = make_cell(swept={"policy.eta": 0.1}, parameters={"routing": {"name": "ucb"}}).info
    told = json.loads(json.dumps(info.to_json()))
    assert CellInfo.from_json(told) == info
    assert "published" not in told
    published = replace(info, published={"regret": 8600.0})
    assert published.to_json()["published"] == {"regret": 8600.0}


def test_files_of_other_versions_may_hold_less_or_more() -> None:
    info = CellInfo.from_json({"cell": "a", "policy": "ucb", "horizon": 10, "of the future": 3})
    assert (info.routing, info.stages, info.swept, info.sources) == (None, None, {}, {})
    with pytest.raises(TypeError, match="horizon"):
        CellInfo.from_json({"cell": "a", "policy": "ucb"})
