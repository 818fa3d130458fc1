"""Every byte a team's layer adds: predicted from the lock, measured on the layer, against the budget, as text, JSON and a page."""
