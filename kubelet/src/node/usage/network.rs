//! What went over the interfaces of a network namespace: `/proc/PID/net/dev`.

use super::summary::{Interface, Network};

/// The interface that stands for a pod or a node (upstream: `defaultNetworkInterfaceName`).
const MAIN: &str = "eth0";

/// The interfaces of a `net/dev` file, without the loopback.
pub fn interfaces(dev: &str) -> Vec<Interface> {
    let one = |line: &str| {
        let (name, figures) = line.split_once(':')?;
        let figures: Vec<u64> = figures.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        let [rx_bytes, rx_packets, rx_errors, rx_dropped, _, _, _, _, tx_bytes, tx_packets, tx_errors, tx_dropped, ..] = figures[..] else {
            return None;
        };
        let name = name.trim().to_owned();
        Some(Interface { name, rx_bytes, rx_errors, tx_bytes, tx_errors, rx_packets, tx_packets, rx_dropped, tx_dropped })
    };
    dev.lines().filter_map(one).filter(|interface| interface.name != "lo").collect()
}

/// The main interface beside all of them; `None` where there is none at all.
pub fn network(dev: &str, time: &str) -> Option<Network> {
    let interfaces = interfaces(dev);
    let main = interfaces.iter().find(|i| i.name == MAIN).or(interfaces.first())?.clone();
    Some(Network { time: time.to_owned(), main, interfaces })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_and_eth0_stands_for_all() {
        let dev = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs\n    lo:  9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  veth: 1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n  eth0:     100       3    1    0    0     0          0         0      200       4    2    0    0     0       0          0\n";
        let network = network(dev, "t").expect("two interfaces");
        assert_eq!((network.main.name.as_str(), network.main.rx_bytes, network.main.tx_errors), ("eth0", 100, 2));
        assert_eq!(network.interfaces.len(), 2);
        assert_eq!(super::network("lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0", "t"), None);
    }
}
