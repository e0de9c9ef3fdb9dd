"""The front end of Layerloop: pages and static files that use the JSON API of curation."""
