"""The workshop of Layerloop: networks, losses and training loops for transparent layers; it reads snapshots, never records."""
