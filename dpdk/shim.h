/*
 * natgate's own small C interface over DPDK.
 *
 * DPDK's headers are full of inline functions, macros and structures that change between versions, so C is their only
 * reader: shim.c includes them, Rust sees this file alone (bindgen runs over it). Nothing here is called per packet:
 * one call moves a whole burst. The fields Rust reads per packet are mirrored in `struct ng_mbuf`, and shim.c asserts
 * at compile time that the mirror matches the installed DPDK.
 *
 * Functions that can fail return 0 (or a count) on success and a negative errno otherwise, unless they say more.
 */
#ifndef NATGATE_SHIM_H
#define NATGATE_SHIM_H

#include <stddef.h>
#include <stdint.h>

/* Bytes DPDK leaves free before a received frame, for headers to be put in front of it. */
#define NG_HEADROOM 128
/* Private bytes behind each mbuf's header that belong to natgate (hand-off metadata): one cache line. */
#define NG_META_BYTES 64

/* Receive flags of `ng_mbuf.ol_flags`. Good and bad together mean that the device does not know. */
#define NG_RX_RSS_HASH (1u << 1)
#define NG_RX_L4_BAD (1u << 3)
#define NG_RX_IP_BAD (1u << 4)
#define NG_RX_IP_GOOD (1u << 7)
#define NG_RX_L4_GOOD (1u << 8)

/* What RSS hashes over; a port's capabilities and settings use the same bits. */
#define NG_RSS_IPV4 (1u << 0)
#define NG_RSS_IPV4_L4 (1u << 1)
#define NG_RSS_IPV6 (1u << 2)
#define NG_RSS_IPV6_L4 (1u << 3)
#define NG_RSS_L3_SRC_ONLY (1u << 4)
#define NG_RSS_L3_DST_ONLY (1u << 5)
#define NG_RSS_L4_SRC_ONLY (1u << 6)
#define NG_RSS_L4_DST_ONLY (1u << 7)

/* Offloads a device has. */
#define NG_OFFLOAD_RX_IP_CHECKSUM (1u << 0)
#define NG_OFFLOAD_RX_L4_CHECKSUM (1u << 1)
#define NG_OFFLOAD_RX_VLAN_STRIP (1u << 2)
#define NG_OFFLOAD_RX_SCATTER (1u << 3)
#define NG_OFFLOAD_TX_IP_CHECKSUM (1u << 4)
#define NG_OFFLOAD_TX_L4_CHECKSUM (1u << 5)
#define NG_OFFLOAD_TX_MULTI_SEGMENT (1u << 6)

/* Mirror of struct rte_mbuf: the fields Rust reads, everything else as filler. */
struct ng_mbuf {
    uint8_t *buf_addr;
    uint64_t buf_iova;
    uint16_t data_off;
    uint16_t refcnt;
    uint16_t nb_segs;
    uint16_t port;
    uint64_t ol_flags;
    uint32_t packet_type;
    uint32_t pkt_len;
    uint16_t data_len;
    uint16_t vlan_tci;
    uint32_t rss_hash;
    uint32_t hash_rest;
    uint16_t vlan_tci_outer;
    uint16_t buf_len;
    void *pool;
    uint8_t second_line[64];
    uint8_t meta[NG_META_BYTES];
};

struct ng_pool;

struct ng_port_info {
    char name[64];
    char driver[32];
    int32_t numa_node; /* -1: unknown */
    uint16_t max_rx_queues;
    uint16_t max_tx_queues;
    uint16_t min_mtu;
    uint16_t max_mtu;
    uint16_t reta_size;
    uint16_t hash_key_size;
    uint32_t max_mac_addresses;
    uint32_t rss;      /* NG_RSS_* */
    uint32_t offloads; /* NG_OFFLOAD_* */
};

struct ng_port_config {
    uint16_t rx_queues;
    uint16_t tx_queues;
    uint16_t mtu;
    uint8_t checksum; /* check received checksums where the device can */
    uint8_t rss_key_len;
    const uint8_t *rss_key; /* NULL: no RSS key of our own; must stay until the port is closed */
    uint32_t rss;           /* NG_RSS_*; 0: RSS off */
    /* Results. */
    uint32_t rss_used;      /* the part of `rss` the device took */
    uint32_t offloads_used; /* NG_OFFLOAD_* switched on */
};

struct ng_link {
    uint32_t speed_mbps; /* 0: unknown */
    uint8_t up;
    uint8_t full_duplex;
};

struct ng_stats {
    uint64_t rx_packets;
    uint64_t tx_packets;
    uint64_t rx_bytes;
    uint64_t tx_bytes;
    uint64_t rx_missed;
    uint64_t rx_errors;
    uint64_t tx_errors;
    uint64_t rx_no_buffer;
};

struct ng_xstat {
    char name[64];
    uint64_t value;
};

/* Environment. */
const char *ng_version(void);
int ng_eal_init(int argc, char **argv);
int ng_eal_cleanup(void);
int ng_thread_register(void);
void ng_thread_unregister(void);
const char *ng_strerror(int error);

/* DPDK's log goes to a buffer of the last few kilobytes. `ng_log_take` moves its text to `out` and returns its length. */
int ng_log_capture(void);
size_t ng_log_take(char *out, size_t capacity);

/* Packet buffers. `data_room` counts the headroom too. On failure the create function returns NULL and sets `error`. */
struct ng_pool *ng_pool_create(const char *name, uint32_t count, uint32_t cache, uint16_t data_room, int node, int *error);
void ng_pool_free(struct ng_pool *pool);
uint32_t ng_pool_available(const struct ng_pool *pool);
int ng_alloc_bulk(struct ng_pool *pool, struct ng_mbuf **out, uint32_t count);
void ng_free_bulk(struct ng_mbuf **mbufs, uint32_t count);
void ng_free(struct ng_mbuf *mbuf);

/* Bursts: the number of mbufs received, or taken by the device. Mbufs taken no longer belong to the caller. */
uint16_t ng_rx_burst(uint16_t port, uint16_t queue, struct ng_mbuf **out, uint16_t count);
uint16_t ng_tx_burst(uint16_t port, uint16_t queue, struct ng_mbuf **mbufs, uint16_t count);

/* Devices and ports. */
int ng_device_attach(const char *devargs);
int ng_virtual_device_detach(const char *name);
int ng_port_count(void);
int ng_port_by_name(const char *name, uint16_t *port);
int ng_port_info(uint16_t port, struct ng_port_info *out);
int ng_port_configure(uint16_t port, struct ng_port_config *config);
int ng_port_descriptors(uint16_t port, uint16_t *rx, uint16_t *tx);
int ng_rx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors, struct ng_pool *pool);
int ng_tx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors);
int ng_port_start(uint16_t port);
int ng_port_stop(uint16_t port);
int ng_port_close(uint16_t port);
int ng_port_mtu(uint16_t port, uint16_t *mtu);
int ng_port_set_mtu(uint16_t port, uint16_t mtu);
int ng_port_mac(uint16_t port, uint8_t mac[6]);
int ng_port_set_mac(uint16_t port, const uint8_t mac[6]);
int ng_port_add_mac(uint16_t port, const uint8_t mac[6]);
int ng_port_promiscuous(uint16_t port, int on);
int ng_port_allmulticast(uint16_t port, int on);
int ng_port_rss_key(uint16_t port, uint8_t *key, uint8_t length);
int ng_port_set_reta(uint16_t port, const uint16_t *queues, uint16_t count);
/* A bond of ports that are not started, and its number. Modes: active backup, balance by flow, LACP and balance by flow. */
#define NG_BOND_ACTIVE_BACKUP 1u
#define NG_BOND_BALANCE 2u
#define NG_BOND_LACP 4u
int ng_bond_create(const char *name, uint32_t mode, const uint16_t *members, uint16_t count);
int ng_bond_set_primary(uint16_t bond, uint16_t member);
int ng_port_link(uint16_t port, struct ng_link *out);
int ng_port_stats(uint16_t port, struct ng_stats *out);
int ng_port_stats_reset(uint16_t port);
int ng_port_xstats(uint16_t port, struct ng_xstat *out, uint32_t capacity);

#endif
