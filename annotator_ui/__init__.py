"""The skin of Layerloop: pages and static files over the JSON API of curation."""
