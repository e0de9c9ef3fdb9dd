"""Joint denoising of an image's layers: joint attention, and a LoRA for each role."""
