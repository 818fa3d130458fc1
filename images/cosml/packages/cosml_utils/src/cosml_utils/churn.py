"""Churn, as the team counts it: customers active in one period who are gone in the next."""

from __future__ import annotations

import pandas as pd


def churn_rate(active: pd.DataFrame, *, customer: str = "customer", period: str = "period") -> pd.Series:
    """Share of each period's customers who are absent from the following one; the last period has no value.

    ``active`` has one row for each customer and period of activity; periods sort in time order.
    """
    customers = active.groupby(period)[customer].agg(set).sort_index()
    following = customers.shift(-1).iloc[:-1]
    rates = [len(now - later) / len(now) for now, later in zip(customers.iloc[:-1], following, strict=True)]
    return pd.Series(rates, index=following.index, name="churn")


def split_by_time(frame: pd.DataFrame, column: str, cutoff: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows before ``cutoff`` and rows from it on: a split that does not look into the future."""
    before = frame[column] < cutoff
    return frame[before], frame[~before]
