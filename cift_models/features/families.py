"""The families of features, in the order of their columns. A new family is one file and one line here."""

from cift_models.features import activity, bars, clock, flows, quote, volatility, volume_profile, z_score

FAMILIES = (quote, flows, bars, volatility, activity, volume_profile, z_score, clock)
