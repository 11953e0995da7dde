"""Tests."""

import pytest

pytest.register_assert_rewrite(
    "tests.contract.blobs_contract",
    "tests.contract.membership_contract",
    "tests.contract.metadata_contract",
    "tests.contract.metadata_machine",
    "tests.contract.metadata_parts_contract",
)
