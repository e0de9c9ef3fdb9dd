"""The front end of Layerloop: HTML pages and static files on top of the JSON API of `curation`."""
