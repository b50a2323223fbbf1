"""The conformance kit: checks that every map must pass, built-in or your own.

    from rwloss.testing import parametrize_with_map_checks

    @parametrize_with_map_checks([MyMap(), MyMap(tau_mm=2.0)])
    def test_my_map(generator, check):
        check(generator)

Each check is a function of a generator. If it fails it raises AssertionError with what was
expected, what was found, and a small input that shows it. Only the decorator needs pytest.
"""

from rwloss.testing.inputs import ClosedForm as ClosedForm
from rwloss.testing.inputs import closed_forms as closed_forms
from rwloss.testing.kit import CHECKS as CHECKS
from rwloss.testing.kit import CheckResult as CheckResult
from rwloss.testing.kit import map_checks as map_checks
from rwloss.testing.kit import parametrize_with_map_checks as parametrize_with_map_checks
from rwloss.testing.kit import run_map_checks as run_map_checks
