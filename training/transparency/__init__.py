"""Latent transparency: the frozen autoencoder, the networks around it, losses and training."""
