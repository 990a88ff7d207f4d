"""Weights from elsewhere: each library's own outputs against those of the layer that was made from its weights."""
