"""Helpers shared by the COSML team's notebooks."""

from cosml_utils.churn import churn_rate, split_by_time

__all__ = ["churn_rate", "split_by_time"]
__version__ = "1.4.0"
