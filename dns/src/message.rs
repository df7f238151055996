//! Between bytes and meaning: which of what arrives is a query, and how an answer becomes a message that fits its transport.

use crate::zone::Answer;
use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};

/// What a UDP client without EDNS takes (RFC 1035).
const PLAIN: u16 = 512;
/// What we take over UDP, and give at most to who asks for more: more would come in fragments, which get lost (DNS flag day 2020).
pub const UDP_PAYLOAD: u16 = 1232;
/// A message over TCP has its length in front, in 16 bits.
const LONGEST: u16 = u16::MAX;

/// A query to be answered.
#[derive(Clone, Debug)]
pub struct Request {
    metadata: Metadata,
    /// What is asked.
    pub query: Query,
    /// What the client can take over UDP, if it speaks EDNS.
    payload: Option<u16>,
    /// Whether it wants DNSSEC's records.
    pub dnssec: bool,
}

impl Request {
    /// A query that no client has sent.
    pub fn plain(query: Query) -> Self {
        Self { metadata: Metadata::new(0, MessageType::Query, OpCode::Query), query, payload: None, dnssec: false }
    }

    /// Whether the client asks for records whose signatures nobody has checked.
    pub fn checking_disabled(&self) -> bool {
        self.metadata.checking_disabled
    }
}

/// What arrived.
#[derive(Debug)]
pub enum Received {
    /// Not a query: an answer to one, or too short to say. Answering those makes loops.
    Noise,
    /// A message that is refused by these bytes.
    Refused(ResponseCode, Vec<u8>),
    /// A query.
    Query(Request),
}

/// Understands what arrived.
pub fn receive(bytes: &[u8]) -> Received {
    let Ok(Header { metadata, .. }) = Header::read(&mut BinDecoder::new(bytes)) else { return Received::Noise };
    if metadata.message_type != MessageType::Query {
        return Received::Noise;
    }
    let refuse = |code: ResponseCode, edns: Option<Edns>| {
        let mut message = Message::error_msg(metadata.id, metadata.op_code, code);
        message.metadata.recursion_desired = metadata.recursion_desired;
        message.edns = edns;
        // Nothing of a header without records can fail to be written.
        message.to_vec().map_or(Received::Noise, |bytes| Received::Refused(code, bytes))
    };
    if metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp, None);
    }
    let Ok(mut message) = Message::from_vec(bytes) else { return refuse(ResponseCode::FormErr, None) };
    if message.version() > 0 {
        return refuse(ResponseCode::BADVERS, Some(edns(false)));
    }
    let (Some(query), true) = (message.queries.pop(), message.queries.is_empty()) else { return refuse(ResponseCode::FormErr, None) };
    if query.query_class() != DNSClass::IN {
        return refuse(ResponseCode::Refused, None);
    }
    if matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
        return refuse(ResponseCode::NotImp, None);
    }
    let dnssec = message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
    Received::Query(Request { metadata, query, payload: message.edns.as_ref().map(Edns::max_payload), dnssec })
}

fn edns(dnssec: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD).set_version(0).set_dnssec_ok(dnssec);
    edns
}

/// The message that asks somebody else.
pub fn question(id: u16, request: &Request, query: &Query) -> Option<Vec<u8>> {
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = request.metadata.checking_disabled;
    message.add_query(query.clone());
    message.set_edns(edns(request.dnssec));
    message.to_vec().ok()
}

/// Whether the answer goes over UDP or TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In one datagram.
    Udp,
    /// In a stream.
    Tcp,
}

/// The message that answers. What does not fit is left out: additional records first, which nobody needs to be told of, then answers, and of those the
/// client is told so that it can ask again over TCP. Those that fit are sent all the same, because some clients never ask again.
pub fn reply(request: &Request, answer: Answer, transport: Transport) -> Vec<u8> {
    let limit = match (transport, request.payload) {
        (Transport::Tcp, _) => LONGEST,
        (Transport::Udp, None) => PLAIN,
        (Transport::Udp, Some(payload)) => payload.clamp(PLAIN, UDP_PAYLOAD),
    };
    let mut message = Message::response(request.metadata.id, OpCode::Query);
    message.metadata = Metadata::response_from_request(&request.metadata);
    message.metadata.recursion_available = true;
    message.metadata.authoritative = answer.authoritative;
    message.metadata.response_code = answer.code;
    message.add_query(request.query.clone());
    message.answers = answer.answers;
    message.authorities = answer.authority;
    message.additionals = answer.additional;
    message.edns = request.payload.map(|_| edns(request.dnssec));
    let (bytes, fits) = encode(&message, limit);
    if fits {
        return bytes;
    }
    message.additionals.clear();
    let (bytes, fits) = encode(&message, limit);
    if fits {
        return bytes;
    }
    // Signatures and the like of an answer that is cut off help nobody.
    message.authorities.clear();
    message.metadata.truncation = true;
    let written = usize::from(u16::from_be_bytes([bytes[6], bytes[7]]));
    message.answers.truncate(written);
    loop {
        let (bytes, fits) = encode(&message, limit);
        if fits || message.answers.pop().is_none() {
            return bytes;
        }
    }
}

/// The bytes, and whether all records are in them.
fn encode(message: &Message, limit: u16) -> (Vec<u8>, bool) {
    let mut bytes = Vec::with_capacity(usize::from(PLAIN));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    let written = message.emit(&mut encoder).is_ok() && bytes.len() >= 12;
    if !written {
        // A record that cannot be written, which no record that was read or made here is.
        let failure = Message::error_msg(message.metadata.id, OpCode::Query, ResponseCode::ServFail);
        return (failure.to_vec().unwrap_or_default(), true);
    }
    let fits = message.metadata.truncation || bytes[2] & 0x02 == 0;
    // A message that says already that it is cut off has to be counted.
    let counted = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let wanted = message.answers.len() + message.authorities.len() + message.additionals.len() + usize::from(message.edns.is_some());
    let all = counted(6) + counted(8) + counted(10) == wanted;
    (bytes, fits && all)
}

/// The shortest time that any of the records may be kept.
pub fn shortest<'a>(records: impl IntoIterator<Item = &'a Record>) -> Option<u32> {
    records.into_iter().map(|record| record.ttl).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData};

    fn query(kind: RecordType, payload: Option<u16>) -> Message {
        let mut message = Message::query();
        message.metadata.id = 7;
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii("Web.default.svc.cluster.local.").unwrap(), kind));
        if let Some(payload) = payload {
            message.set_edns({
                let mut edns = Edns::new();
                edns.set_max_payload(payload);
                edns
            });
        }
        message
    }

    fn request(payload: Option<u16>) -> Request {
        match receive(&query(RecordType::A, payload).to_vec().unwrap()) {
            Received::Query(request) => request,
            other => panic!("{other:?}"),
        }
    }

    fn addresses(count: u8) -> Answer {
        let name = Name::from_ascii("Web.default.svc.cluster.local.").unwrap();
        let record = |last| Record::from_rdata(name.clone(), 5, RData::A(A::new(10, 0, 0, last)));
        Answer { authoritative: true, answers: (0..count).map(record).collect(), ..Answer::default() }
    }

    #[test]
    fn an_answer_repeats_the_question_as_it_was_written() {
        let bytes = reply(&request(Some(4096)), addresses(2), Transport::Udp);
        let message = Message::from_vec(&bytes).unwrap();
        assert_eq!((message.metadata.id, message.metadata.authoritative, message.metadata.recursion_desired), (7, true, true));
        assert_eq!(message.queries[0].name().to_ascii(), "Web.default.svc.cluster.local.");
        assert_eq!((message.answers.len(), message.edns.unwrap().max_payload()), (2, UDP_PAYLOAD));
        assert!(Message::from_vec(&reply(&request(None), addresses(1), Transport::Udp)).unwrap().edns.is_none());
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said() {
        // Each record takes 16 bytes after the header and the question.
        for (payload, transport, sent, truncated) in [
            (None, Transport::Udp, 28, true),
            (Some(600), Transport::Udp, 33, true),
            (Some(100), Transport::Udp, 28, true),
            (Some(65000), Transport::Udp, 72, true),
            (None, Transport::Tcp, 200, false),
        ] {
            let bytes = reply(&request(payload), addresses(200), transport);
            let message = Message::from_vec(&bytes).unwrap();
            let shown = (message.metadata.truncation, message.edns.is_some());
            assert_eq!(shown, (truncated, payload.is_some()), "{payload:?}");
            assert!(message.answers.len().abs_diff(sent) <= 1, "{payload:?}: {}", message.answers.len());
            let limit = payload.map_or(PLAIN, |payload| payload.clamp(PLAIN, UDP_PAYLOAD));
            assert!(transport == Transport::Tcp || bytes.len() <= usize::from(limit), "{payload:?}: {}", bytes.len());
        }
    }

    #[test]
    fn additional_records_go_first_and_unsaid() {
        let mut answer = addresses(20);
        answer.additional = addresses(20).answers;
        let message = Message::from_vec(&reply(&request(None), answer, Transport::Udp)).unwrap();
        assert_eq!((message.answers.len(), message.additionals.len(), message.metadata.truncation), (20, 0, false));
    }

    #[test]
    fn what_is_no_query_is_refused_or_ignored() {
        let code = |message: &Message| match receive(&message.to_vec().unwrap()) {
            Received::Refused(code, bytes) => {
                assert_eq!(Message::from_vec(&bytes).unwrap().metadata.id, 7);
                Some(code)
            }
            _ => None,
        };
        let mut several = query(RecordType::A, None);
        several.add_query(several.queries[0].clone());
        assert_eq!(code(&several), Some(ResponseCode::FormErr));
        let mut update = query(RecordType::SOA, None);
        update.metadata.op_code = OpCode::Notify;
        assert_eq!(code(&update), Some(ResponseCode::NotImp));
        assert_eq!(code(&query(RecordType::AXFR, None)), Some(ResponseCode::NotImp));
        let mut chaos = query(RecordType::TXT, None);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(code(&chaos), Some(ResponseCode::Refused));
        let mut newer = query(RecordType::A, Some(1232));
        newer.edns.as_mut().unwrap().set_version(1);
        assert_eq!(code(&newer), Some(ResponseCode::BADVERS));
        let mut answer = query(RecordType::A, None);
        answer.metadata.message_type = MessageType::Response;
        assert!(matches!(receive(&answer.to_vec().unwrap()), Received::Noise));
        for garbage in [&b""[..], b"\0\x07", &[0; 11]] {
            assert!(matches!(receive(garbage), Received::Noise));
        }
        let mut torn = query(RecordType::A, None).to_vec().unwrap();
        torn.truncate(20);
        assert!(matches!(receive(&torn), Received::Refused(ResponseCode::FormErr, _)));
    }
}
