import logging
import threading

from sparsevit_plugin.backends.capture import quiet


def test_two_threads_leave_the_log_as_it_was():
    """The second to come would otherwise take the first's silence for the usual state."""
    inside, go_on = threading.Event(), threading.Event()

    def first():
        with quiet():
            inside.set()
            go_on.wait(10)

    def second():
        with quiet():
            pass

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert logging.root.manager.disable == logging.NOTSET


def test_a_changed_level_is_put_back():
    before = logging.root.level
    with quiet():
        logging.root.setLevel(logging.CRITICAL)
    assert logging.root.level == before
