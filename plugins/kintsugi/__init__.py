"""Kintsugi: a streaming pipeline of options trades that rebuilds its own servers."""
