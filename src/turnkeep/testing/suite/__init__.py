"""The promises of the store contract, one file per part of it; `turnkeep.testing.store_suite` puts them together."""
