"""The promises of the store contract, one file per part of it; `tests.contract.store_suite` puts them together."""
