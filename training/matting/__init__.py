"""Generate, then matte: the other way to a transparent layer, to be measured beside ours."""
