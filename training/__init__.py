"""The workshop of Layerloop: networks, losses and training loops; it reads snapshots, never records."""
