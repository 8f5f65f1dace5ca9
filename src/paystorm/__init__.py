"""paystorm: screens payment event streams for fraud, on Apache Storm or on one machine alone."""

__version__ = "0.1.0"
