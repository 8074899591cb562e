"""What exists only in the ``local`` environment: node processes, the control plane, preflight."""
