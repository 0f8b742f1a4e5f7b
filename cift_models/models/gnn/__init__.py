"""The lead-lag GNN: a statistical prior, learned attention over (asset, lag) neighbours, zero-gated on top of the own-asset forecast."""
