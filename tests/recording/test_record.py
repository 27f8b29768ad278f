from prodml.recording import Record


def record(**fields):
    return Record(id=1, writer="w", at=0.0, request_id="r-1", **fields)


def test_label_of_none_is_a_label():
    assert record(label=None).labelled
    assert not record().labelled


def test_failed_record_names_its_error():
    failed = record(metadata={"status": "error", "error": "ValueError: bad"})
    assert (failed.failed, failed.error) == (True, "ValueError: bad")


def test_failed_record_without_an_error_says_so():
    assert record(metadata={"status": "error"}).error == "unknown"


def test_record_that_did_not_fail_has_no_error():
    assert (record().failed, record().error) == (False, None)
