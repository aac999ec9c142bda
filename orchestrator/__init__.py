"""The YAML spec, the grid, the plan (segment forest), the Ray Tune controller, tracking, the `lacuna` command."""
