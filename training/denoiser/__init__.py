"""The denoiser of adjusted latents (a checkpoint's base): built in or Stable Diffusion."""
