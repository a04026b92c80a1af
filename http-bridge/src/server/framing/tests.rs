use super::*;

fn lines(parts: &[&str]) -> Lines {
    let mut inbound = Inbound::default();
    for part in parts {
        inbound.read(part.as_bytes());
    }
    let Inbound::Http1(lines) = inbound else { panic!("{inbound:?}") };
    lines
}

#[test]
fn a_message_is_whole_when_nothing_is_missing_and_nothing_stands_behind_it() {
    const HEAD: &str = "POST /a HTTP/1.1\r\nHost: t\r\n\r\n";
    for (parts, body, whole) in [
        (&[HEAD][..], Body::Length(0), true),
        (&["POST /a HTTP/1.1\nHost: t\n\n"], Body::Length(0), true),
        (&["\r\n", HEAD], Body::Length(0), true),
        (&["P", "RI /a HTTP/1.1\r\n", "\r", "\n"], Body::Length(0), true),
        (&[HEAD, "he", "llo"], Body::Length(5), true),
        (&[HEAD, "hel"], Body::Length(5), false),
        (&[HEAD, "helloGET"], Body::Length(5), false),
        (&[HEAD, "GET /b HT"], Body::Length(0), false),
        (&[HEAD, "5\r\nhello\r\n0\r\n\r\n"], Body::Chunked, true),
        (&[HEAD, "5\r\nhello\r\n0\r\n\r\nGET"], Body::Chunked, false),
        (&[HEAD, "5\r\nhel"], Body::Chunked, false),
    ] {
        assert_eq!(lines(parts).answered(body), whole, "{parts:?}");
    }
}

#[test]
fn messages_that_come_together_end_with_the_last_one() {
    const HEAD: &str = "GET /a HTTP/1.1\r\nHost: t\r\n\r\n";
    let both = format!("{HEAD}{HEAD}");
    let mut two = lines(&[&both]);
    assert!(two.answered(Body::Length(0)), "it ends with a blank line");
    assert!(two.answered(Body::Length(0)), "nothing has come since");
    let both = format!("{HEAD}{HEAD}GET");
    let mut two = lines(&[&both]);
    assert!(!two.answered(Body::Length(0)));
    assert!(!two.answered(Body::Length(0)), "of the second one's end nothing is known");
    let mut again = lines(&[HEAD]);
    assert!(again.answered(Body::Length(0)));
    again.read(HEAD.as_bytes());
    again.read(b"hello");
    assert!(again.answered(Body::Length(5)));
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, 1];
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn frames_and_blocks_of_headers_are_whole_or_not() {
    let settings = frame(4, 0, &[]);
    let whole = frame(1, 5, b"head");
    let opened = frame(1, 1, b"he");
    let closed = frame(9, 4, b"ad");
    let data = frame(0, 0, b"data");
    for (frames, between) in [
        (vec![], false),
        (vec![&settings], true),
        (vec![&settings, &whole], true),
        (vec![&settings, &opened], false),
        (vec![&settings, &opened, &closed], true),
        (vec![&settings, &data], true),
    ] {
        let mut bytes = PREFACE.to_vec();
        for frame in frames {
            bytes.extend_from_slice(frame);
        }
        // Wherever the bytes are split.
        for size in [1, 2, 7, 24, 1_000] {
            let mut inbound = Inbound::default();
            for part in bytes.chunks(size) {
                inbound.read(part);
            }
            let Inbound::Http2(frames) = &inbound else { panic!("{inbound:?}") };
            assert_eq!(frames.is_between(), between, "{bytes:?} {size}");
            // A frame that has only begun.
            inbound.read(&settings[..4]);
            let Inbound::Http2(frames) = &inbound else { panic!("{inbound:?}") };
            assert!(!frames.is_between());
        }
    }
}

#[test]
fn a_part_of_the_preface_is_no_version_yet() {
    let mut inbound = Inbound::default();
    inbound.read(&PREFACE[..20]);
    assert!(matches!(inbound, Inbound::Unknown { preface: 20 }), "{inbound:?}");
    inbound.read(&PREFACE[20..]);
    assert!(matches!(inbound, Inbound::Http2(_)), "{inbound:?}");
}
