from __future__ import annotations

import os

from w2vlab.data.audio.decoder_messages import capture_messages


def test_messages_of_the_mp3_decoder_are_captured_and_others_are_not(capfd):
    with capture_messages() as messages:
        os.write(2, b"[src/libmpg123/layer3.c:1] error: something\nNote: Trying to resync...\nan alarm of another\n")
    assert [message[:12] for message in messages] == ["[src/libmpg1", "Note: Trying"]
    assert capfd.readouterr().err == "an alarm of another\n"
