"""What may be answered to a repair that a guard refused, beside `kintsugi.recovery.guards` APPROVE and DECLINE."""

LOOK_AGAIN = "Look again"
"""The reason has passed: prove the node. The sweep answers this too, when the node serves again."""
