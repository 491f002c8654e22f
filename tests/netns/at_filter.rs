//! Forwarding under a filter, and what each stage of the order sees (AT-0.9, AT-0.10, AT-1.15).

use crate::lab::{Setup, same_on_both};

/// Everything from the LAN may leave; nothing may come in but answers.
const CLOSED: Setup = Setup {
    kernel: Some(
        "table ip nat { chain post { type nat hook postrouting priority 100
           oifname wan0 masquerade
         }; }
         table ip filter { chain forward { type filter hook forward priority 0; policy drop
           ct state established,related accept
           iifname lan0 accept
         }; }",
    ),
    natgate: r#"
        [[source-nat]]
        out = "wan0"
        via = "interface"
        [filter]
        default = "drop"
        [[filter.rule]]
        in = "lan0"
        action = "accept"
    "#,
    ..Setup::PLAIN
};

#[test]
fn at_0_9_answers_pass_a_closed_filter() {
    same_on_both(&CLOSED, |lab| {
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.1:40000, reply");
    });
}

#[test]
fn at_0_9_answers_can_be_filtered_too() {
    // E31: a stateless rule lets the request out and drops the answer.
    let setup = Setup {
        kernel: Some(
            "table ip nat { chain post { type nat hook postrouting priority 100
               oifname wan0 masquerade
             }; }
             table ip filter { chain forward { type filter hook forward priority 0; policy drop
               iifname lan0 accept
             }; }",
        ),
        natgate: r#"
            [[source-nat]]
            out = "wan0"
            via = "interface"
            [filter]
            default = "drop"
            established = "filter"
            [[filter.rule]]
            in = "lan0"
            action = "accept"
        "#,
        ..CLOSED
    };
    same_on_both(&setup, |lab| {
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.1:40000, timeout");
    });
}

#[test]
fn at_0_10_nobody_outside_opens_a_flow_through_a_closed_filter() {
    same_on_both(&CLOSED, |lab| {
        lab.expect("UDP out 203.0.113.9:0 > 10.0.0.2:99 => seen –, timeout");
    });
}

/// A forward under a closed filter whose only opening names `dport`.
fn forward_with_opening(kernel: &'static str, natgate: &'static str) -> Setup {
    Setup {
        kernel: Some(kernel),
        natgate,
        ..Setup::PLAIN
    }
}

#[test]
fn at_1_15_the_filter_sees_the_inside_destination() {
    let inside_port = forward_with_opening(
        "table ip nat { chain pre { type nat hook prerouting priority -100
           iifname wan0 tcp dport 8022 dnat to 10.0.0.2:22; }; }
         table ip filter { chain forward { type filter hook forward priority 0; policy drop
           ct state established accept
           ip daddr 10.0.0.2 tcp dport 22 accept; }; }",
        r#"
            [[port-forward]]
            in = "wan0"
            dst = "203.0.113.1"
            proto = "tcp"
            dport = "8022"
            to = "10.0.0.2:22"
            allow = false
            [filter]
            default = "drop"
            [[filter.rule]]
            dst = "10.0.0.2"
            proto = "tcp"
            dport = "22"
            action = "accept"
        "#,
    );
    let probe = "TCP out 203.0.113.9:0 > 203.0.113.1:8022 listener in@10.0.0.2:22";
    same_on_both(&inside_port, |lab| {
        lab.expect(&format!("{probe} => seen 203.0.113.9:*, reply"));
    });
    let outside_port = forward_with_opening(
        "table ip nat { chain pre { type nat hook prerouting priority -100
           iifname wan0 tcp dport 8022 dnat to 10.0.0.2:22; }; }
         table ip filter { chain forward { type filter hook forward priority 0; policy drop
           ct state established accept
           tcp dport 8022 accept; }; }",
        r#"
            [[port-forward]]
            in = "wan0"
            dst = "203.0.113.1"
            proto = "tcp"
            dport = "8022"
            to = "10.0.0.2:22"
            allow = false
            [filter]
            default = "drop"
            [[filter.rule]]
            proto = "tcp"
            dport = "8022"
            action = "accept"
        "#,
    );
    same_on_both(&outside_port, |lab| {
        lab.expect(&format!("{probe} => seen –, timeout"));
    });
}
