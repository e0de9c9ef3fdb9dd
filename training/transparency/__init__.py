"""Latent transparency: the frozen autoencoder, the networks around it, their losses and their training."""
