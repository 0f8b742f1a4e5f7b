"""CIFT: train, judge and run models on order-book data. This package computes; `tasks`, `flows` and `serving` never do."""
