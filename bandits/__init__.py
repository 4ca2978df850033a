"""The policies: statistics, confidence, forecasts, the LP, dual ascent and the routing rules built on them."""
