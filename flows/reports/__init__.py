"""Reports: HTML pages and tables of campaigns and studies."""
