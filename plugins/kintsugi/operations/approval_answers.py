"""An answer to a recovery that a guard refused, besides APPROVE and DECLINE of `kintsugi.recovery.guards`."""

LOOK_AGAIN = "Look again"
"""The reason of the refusal is gone: verify the node. The sweep also answers this if the node serves again."""
