"""What the proofs of the exercises have shown, as a line at the end of a test run."""

RECOGNISED = "test_wrong_answers_get_their_own_diagnosis["


def pytest_terminal_summary(terminalreporter) -> None:
    """How many wrong answers got the diagnosis that they should."""
    passed, failed = (
        sum(RECOGNISED in report.nodeid for report in terminalreporter.getreports(outcome))
        for outcome in ("passed", "failed")
    )
    if passed + failed:
        terminalreporter.write_line(
            f"exercises: {passed} of {passed + failed} wrong answers recognised, "
            "each by its own diagnosis"
        )
