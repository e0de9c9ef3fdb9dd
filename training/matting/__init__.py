"""Generation followed by matting: the alternative to latent transparency, for comparison."""
