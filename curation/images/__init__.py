"""People's images: recognized by their bytes and decoded by one color policy; pure, so that training may import it."""
