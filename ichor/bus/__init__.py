"""The bus: queue verbs over topics. See `ichor.bus.protocol` for the contract, one module per backend."""

from ichor.bus.protocol import Bus, DeadLetter, Delivery, Lag, Subscription

__all__ = ["Bus", "DeadLetter", "Delivery", "Lag", "Subscription"]
