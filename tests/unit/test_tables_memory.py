"""The tables in memory."""

import pytest
from tests.contract.tables_contract import TablesContract

from paystorm.tables.base import Tables
from paystorm.tables.memory import MemoryTables


class TestMemoryTables(TablesContract):
    @pytest.fixture
    def tables(self) -> Tables:
        return MemoryTables()
