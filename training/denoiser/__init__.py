"""The denoiser of adjusted latents, a checkpoint's base: of our own or Stable Diffusion's, its training and drawing."""
