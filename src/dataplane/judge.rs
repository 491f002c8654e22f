//! The filter at work: flows that were let through, packets that were not.

use crate::base::DropReason;
use crate::base::time::Now;
use crate::dataplane::buffer::{Buffer, Incoming, Sink};
use crate::dataplane::family::Ip;
use crate::dataplane::shard::Shard;
use crate::flow::session::{Direction, Session, SessionIndex};
use crate::nat::filter::conditions::IcmpKind;
use crate::nat::filter::{Action, Verdict, flows};
use crate::nat::helpers;
use crate::nat::open::NewFlow;
use crate::nat::policy::Policy;
use crate::nat::window::Numbers;
use crate::wire::icmp;
use crate::wire::parse::{Parsed, Transport};

impl<B: Buffer> Shard<B> {
    /// Opens the accounts of a new session, notes where its TCP connection is and whether it gets help, and judges its
    /// answers if the filter does.
    pub(super) fn opened<A: Ip>(
        &mut self,
        policy: &Policy,
        index: SessionIndex,
        flow: &NewFlow<A>,
        verdict: Verdict,
        numbers: Option<Numbers>,
    ) {
        let nat = A::nat_mut(&mut self.nat, &mut self.nat_v6);
        if let Some(session) = nat.sessions.get_mut(index.0) {
            if let Some(numbers) = numbers {
                let from_inside = session.from_inside(Direction::Forward);
                let windows = &mut nat.windows;
                windows.begin(index, from_inside, flow.tcp_flags, numbers);
            }
            if flow.transport == Transport::Sctp {
                nat.windows.forget(index);
            }
            helpers::mark(policy, session);
            session.rule = self.accounts.open(session.rule, verdict.rule);
            flows::bar_answers(policy, session, flow.icmp);
        }
    }

    /// Drops a packet the filter refuses, and tells its sender if the rule says so.
    pub(super) fn refused(
        &mut self,
        policy: &Policy,
        now: Now,
        verdict: Verdict,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        self.accounts.refused(verdict.rule, packet.ip_length);
        if let Action::Reject(answer) = verdict.action {
            self.tell(policy, now, answer, &incoming, packet, sink);
        }
        self.discard(incoming.buffer, DropReason::PolicyFilter, sink);
    }

    /// An answer of a session whose answers may not pass.
    #[cold]
    pub(super) fn barred<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        session: &Session<A>,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        let icmp = icmp_kind(incoming.buffer.bytes(), packet);
        let verdict = flows::answer(policy, session, incoming.ingress, icmp);
        self.refused(policy, now, verdict, incoming, packet, sink);
    }

    /// Judges an ICMP error about a packet of `session`, which it answers in `direction`.
    pub(super) fn judge_error<A: Ip>(
        &self,
        policy: &Policy,
        session: &Session<A>,
        direction: Direction,
        incoming: &Incoming<B>,
        packet: &Parsed,
    ) -> Verdict {
        // The second half of a hairpin, and errors of our own, are no business of rules about who may send what.
        let icmp = icmp_kind(incoming.buffer.bytes(), packet).filter(|_| !incoming.looped);
        icmp.map_or(Verdict::PASS, |icmp| {
            let (source, _) = A::ends(incoming.buffer.bytes(), packet);
            let ends = (source, session.leaving(direction).destination);
            flows::error(policy, session, incoming.ingress, ends, icmp)
        })
    }
}

/// ICMP type and code of a packet whose header is here.
pub(super) fn icmp_kind(frame: &[u8], packet: &Parsed) -> Option<IcmpKind> {
    let l4 = usize::from(packet.l4);
    matches!(
        packet.transport,
        Transport::IcmpQuery | Transport::IcmpReply | Transport::IcmpError | Transport::IcmpOther
    )
    .then(|| IcmpKind {
        kind: icmp::kind(frame, l4),
        code: icmp::code(frame, l4),
    })
}
