"""Tests."""

import pytest

pytest.register_assert_rewrite("tests.contract.blobs_contract")
