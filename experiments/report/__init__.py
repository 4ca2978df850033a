"""What is made from stored results: summary, tables, figures, page, dashboards."""
