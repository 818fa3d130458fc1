import pandas as pd

from cosml_utils import churn_rate


def test_one_of_two_customers_leaves():
    active = pd.DataFrame({"customer": ["a", "b", "a"], "period": [1, 1, 2]})
    assert churn_rate(active).to_dict() == {1: 0.5}
