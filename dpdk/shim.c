/* The only C of natgate: see shim.h for what this is and why. */
#define _GNU_SOURCE
#include "shim.h"

#include <linux/if_packet.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_eth_bond.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_memzone.h>
#include <rte_version.h>

/* ---- the mirror agrees with the installed DPDK, or nothing compiles ---- */

#define SAME_FIELD(ours, theirs)                                                                       \
    _Static_assert(offsetof(struct ng_mbuf, ours) == offsetof(struct rte_mbuf, theirs), "mbuf: " #theirs); \
    _Static_assert(sizeof(((struct ng_mbuf *)0)->ours) == sizeof(((struct rte_mbuf *)0)->theirs), "mbuf: size of " #theirs)

SAME_FIELD(buf_addr, buf_addr);
SAME_FIELD(data_off, data_off);
SAME_FIELD(refcnt, refcnt);
SAME_FIELD(nb_segs, nb_segs);
SAME_FIELD(port, port);
SAME_FIELD(ol_flags, ol_flags);
SAME_FIELD(packet_type, packet_type);
SAME_FIELD(pkt_len, pkt_len);
SAME_FIELD(data_len, data_len);
SAME_FIELD(vlan_tci, vlan_tci);
SAME_FIELD(rss_hash, hash.rss);
SAME_FIELD(vlan_tci_outer, vlan_tci_outer);
SAME_FIELD(buf_len, buf_len);
SAME_FIELD(pool, pool);
_Static_assert(offsetof(struct ng_mbuf, second_line) == offsetof(struct rte_mbuf, next), "mbuf: second line");
_Static_assert(sizeof(struct rte_mbuf) == 128, "mbuf: size");
_Static_assert(offsetof(struct ng_mbuf, meta) == sizeof(struct rte_mbuf), "mbuf: private area");
_Static_assert(NG_HEADROOM == RTE_PKTMBUF_HEADROOM, "headroom");
_Static_assert(NG_META_BYTES % RTE_MBUF_PRIV_ALIGN == 0, "private area alignment");
_Static_assert(NG_RX_RSS_HASH == RTE_MBUF_F_RX_RSS_HASH, "flag");
_Static_assert(NG_RX_L4_BAD == RTE_MBUF_F_RX_L4_CKSUM_BAD, "flag");
_Static_assert(NG_RX_L4_GOOD == RTE_MBUF_F_RX_L4_CKSUM_GOOD, "flag");
_Static_assert(NG_RX_IP_BAD == RTE_MBUF_F_RX_IP_CKSUM_BAD, "flag");
_Static_assert(NG_RX_IP_GOOD == RTE_MBUF_F_RX_IP_CKSUM_GOOD, "flag");

/* ---- log ---- */

/* The newest text DPDK logged. Kept instead of printed: the caller adds it to an error, or logs it in its own way. */
static struct {
    pthread_mutex_t lock;
    size_t length;
    char text[8192];
} captured = {.lock = PTHREAD_MUTEX_INITIALIZER};

static ssize_t log_write(void *cookie, const char *text, size_t size)
{
    const size_t capacity = sizeof(captured.text);
    const size_t written = size;

    (void)cookie;
    if (size > capacity) {
        text += size - capacity;
        size = capacity;
    }
    pthread_mutex_lock(&captured.lock);
    if (captured.length + size > capacity) {
        size_t excess = captured.length + size - capacity;

        memmove(captured.text, captured.text + excess, captured.length - excess);
        captured.length -= excess;
    }
    memcpy(captured.text + captured.length, text, size);
    captured.length += size;
    pthread_mutex_unlock(&captured.lock);
    return (ssize_t)written;
}

int ng_log_capture(void)
{
    const cookie_io_functions_t functions = {.write = log_write};
    FILE *stream = fopencookie(NULL, "w", functions);

    if (stream == NULL)
        return -errno;
    setvbuf(stream, NULL, _IOLBF, 0);
    rte_log_set_global_level(RTE_LOG_NOTICE);
    return rte_openlog_stream(stream);
}

size_t ng_log_take(char *out, size_t capacity)
{
    size_t taken;

    pthread_mutex_lock(&captured.lock);
    taken = captured.length < capacity ? captured.length : capacity;
    memcpy(out, captured.text + captured.length - taken, taken);
    captured.length = 0;
    pthread_mutex_unlock(&captured.lock);
    return taken;
}

/* ---- environment ---- */

const char *ng_version(void)
{
    return rte_version();
}

int ng_eal_init(int argc, char **argv)
{
    int used = rte_eal_init(argc, argv);

    return used < 0 ? -(rte_errno != 0 ? rte_errno : EINVAL) : used;
}

int ng_eal_cleanup(void)
{
    return rte_eal_cleanup();
}

int ng_thread_register(void)
{
    return rte_thread_register() < 0 ? -rte_errno : 0;
}

void ng_thread_unregister(void)
{
    rte_thread_unregister();
}

const char *ng_strerror(int error)
{
    return rte_strerror(error < 0 ? -error : error);
}

/* ---- packet buffers ---- */

static struct rte_mbuf **real(struct ng_mbuf **mbufs)
{
    return (struct rte_mbuf **)mbufs;
}

/*
 * The pool's ring is of the kind whose threads do not wait for one another: with DPDK's default a thread that the
 * kernel preempts in the middle of a put or get makes all others spin for its whole time slice, which stalls a machine
 * with more workers than cores to a standstill. Most puts and gets end in a thread's own cache anyway.
 */
#define POOL_RING "ring_mt_rts"

static void free_zone(struct rte_mempool_memhdr *header, void *zone)
{
    (void)header;
    rte_memzone_free(zone);
}

/*
 * Gives the pool its memory. DPDK never lets a buffer cross a page, since pages need not be neighbours for a device.
 * On pages of 4 KiB that means one buffer a page: twice the memory, and all buffers' headers in the same few cache
 * sets. When devices see the program's own addresses (IOVA as VA) neighbours are neighbours, so pack the buffers.
 */
static int give_memory(struct rte_mempool *pool, const char *name, uint32_t count, int node)
{
    const struct rte_memzone *zone;
    char zone_name[RTE_MEMZONE_NAMESIZE];
    size_t chunk, align;
    ssize_t size;
    int result;

    if (rte_eal_has_hugepages() || rte_eal_iova_mode() != RTE_IOVA_VA)
        return rte_mempool_populate_default(pool);
    pool->flags |= RTE_MEMPOOL_F_NO_IOVA_CONTIG;
    size = rte_mempool_op_calc_mem_size_default(pool, count, 0, &chunk, &align);
    if (size < 0)
        return (int)size;
    snprintf(zone_name, sizeof(zone_name), "ng_%s", name);
    zone = rte_memzone_reserve_aligned(zone_name, (size_t)size, node, 0, (unsigned int)align);
    if (zone == NULL)
        return -rte_errno;
    result = rte_mempool_populate_iova(pool, zone->addr, (rte_iova_t)(uintptr_t)zone->addr, zone->len, free_zone,
                                       (void *)(uintptr_t)zone);
    if (result <= 0)
        rte_memzone_free(zone);
    return result == 0 ? -ENOBUFS : result;
}

/* Like rte_pktmbuf_pool_create, with our ring and our memory. */
struct ng_pool *ng_pool_create(const char *name, uint32_t count, uint32_t cache, uint16_t data_room, int node, int *error)
{
    struct rte_pktmbuf_pool_private private;
    const unsigned int size = sizeof(struct rte_mbuf) + NG_META_BYTES + data_room;
    struct rte_mempool *pool = rte_mempool_create_empty(name, count, size, cache, sizeof(private), node, 0);
    int result;

    if (pool == NULL) {
        *error = -rte_errno;
        return NULL;
    }
    result = rte_mempool_set_ops_byname(pool, POOL_RING, NULL);
    if (result == 0) {
        memset(&private, 0, sizeof(private));
        private.mbuf_data_room_size = data_room;
        private.mbuf_priv_size = NG_META_BYTES;
        rte_pktmbuf_pool_init(pool, &private);
        result = give_memory(pool, name, count, node);
    }
    if (result >= 0 && pool->populated_size != count)
        result = -ENOBUFS;
    if (result < 0) {
        rte_mempool_free(pool);
        *error = result;
        return NULL;
    }
    rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
    *error = 0;
    return (struct ng_pool *)pool;
}

void ng_pool_free(struct ng_pool *pool)
{
    rte_mempool_free((struct rte_mempool *)pool);
}

uint32_t ng_pool_available(const struct ng_pool *pool)
{
    return rte_mempool_avail_count((const struct rte_mempool *)pool);
}

int ng_alloc_bulk(struct ng_pool *pool, struct ng_mbuf **out, uint32_t count)
{
    return rte_pktmbuf_alloc_bulk((struct rte_mempool *)pool, real(out), count);
}

void ng_free_bulk(struct ng_mbuf **mbufs, uint32_t count)
{
    rte_pktmbuf_free_bulk(real(mbufs), count);
}

void ng_free(struct ng_mbuf *mbuf)
{
    rte_pktmbuf_free((struct rte_mbuf *)mbuf);
}

/* ---- bursts ---- */

/*
 * Kernel-backed devices hand a VLAN tag over beside the frame even though stripping was never asked for. Natgate reads
 * tags in the frame, so put it back; a frame without room for it stays as it is and is then untagged, which cannot
 * happen with the headroom every buffer has.
 */
static void restore_vlan(struct rte_mbuf **mbufs, uint16_t count)
{
    for (uint16_t i = 0; i < count; i++) {
        if (unlikely((mbufs[i]->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED) != 0)) {
            if (rte_vlan_insert(&mbufs[i]) == 0)
                mbufs[i]->ol_flags &= ~(RTE_MBUF_F_RX_VLAN_STRIPPED | RTE_MBUF_F_RX_VLAN | RTE_MBUF_F_TX_VLAN);
        }
    }
}

uint16_t ng_rx_burst(uint16_t port, uint16_t queue, struct ng_mbuf **out, uint16_t count)
{
    uint16_t received = rte_eth_rx_burst(port, queue, real(out), count);

    restore_vlan(real(out), received);
    return received;
}

uint16_t ng_tx_burst(uint16_t port, uint16_t queue, struct ng_mbuf **mbufs, uint16_t count)
{
    return rte_eth_tx_burst(port, queue, real(mbufs), count);
}

/* ---- devices and ports ---- */

/* One row per NG_* bit and the DPDK bits it stands for. */
struct bits {
    uint32_t ours;
    uint64_t theirs;
};

static const struct bits rss_bits[] = {
    {NG_RSS_IPV4, RTE_ETH_RSS_IPV4 | RTE_ETH_RSS_FRAG_IPV4 | RTE_ETH_RSS_NONFRAG_IPV4_OTHER},
    {NG_RSS_IPV4_L4, RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV4_UDP},
    {NG_RSS_IPV6, RTE_ETH_RSS_IPV6 | RTE_ETH_RSS_FRAG_IPV6 | RTE_ETH_RSS_NONFRAG_IPV6_OTHER},
    {NG_RSS_IPV6_L4, RTE_ETH_RSS_NONFRAG_IPV6_TCP | RTE_ETH_RSS_NONFRAG_IPV6_UDP},
    {NG_RSS_L3_SRC_ONLY, RTE_ETH_RSS_L3_SRC_ONLY},
    {NG_RSS_L3_DST_ONLY, RTE_ETH_RSS_L3_DST_ONLY},
    {NG_RSS_L4_SRC_ONLY, RTE_ETH_RSS_L4_SRC_ONLY},
    {NG_RSS_L4_DST_ONLY, RTE_ETH_RSS_L4_DST_ONLY},
};

static const struct bits rx_offload_bits[] = {
    {NG_OFFLOAD_RX_IP_CHECKSUM, RTE_ETH_RX_OFFLOAD_IPV4_CKSUM},
    {NG_OFFLOAD_RX_L4_CHECKSUM, RTE_ETH_RX_OFFLOAD_TCP_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM},
    {NG_OFFLOAD_RX_VLAN_STRIP, RTE_ETH_RX_OFFLOAD_VLAN_STRIP},
    {NG_OFFLOAD_RX_SCATTER, RTE_ETH_RX_OFFLOAD_SCATTER},
};

static const struct bits tx_offload_bits[] = {
    {NG_OFFLOAD_TX_IP_CHECKSUM, RTE_ETH_TX_OFFLOAD_IPV4_CKSUM},
    {NG_OFFLOAD_TX_L4_CHECKSUM, RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM},
    {NG_OFFLOAD_TX_MULTI_SEGMENT, RTE_ETH_TX_OFFLOAD_MULTI_SEGS},
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

/* Our bits for `theirs`. A bit of ours counts when the device has at least one of the DPDK bits behind it. */
static uint32_t to_ours(const struct bits *table, size_t rows, uint64_t theirs)
{
    uint32_t ours = 0;

    for (size_t i = 0; i < rows; i++)
        if ((table[i].theirs & theirs) != 0)
            ours |= table[i].ours;
    return ours;
}

static uint64_t to_theirs(const struct bits *table, size_t rows, uint32_t ours)
{
    uint64_t theirs = 0;

    for (size_t i = 0; i < rows; i++)
        if ((table[i].ours & ours) != 0)
            theirs |= table[i].theirs;
    return theirs;
}

int ng_device_attach(const char *devargs)
{
    return rte_dev_probe(devargs);
}

int ng_virtual_device_detach(const char *name)
{
    return rte_eal_hotplug_remove("vdev", name);
}

int ng_port_count(void)
{
    return rte_eth_dev_count_avail();
}

int ng_port_by_name(const char *name, uint16_t *port)
{
    return rte_eth_dev_get_port_by_name(name, port);
}

int ng_port_info(uint16_t port, struct ng_port_info *out)
{
    struct rte_eth_dev_info info;
    int result = rte_eth_dev_info_get(port, &info);

    if (result != 0)
        return result;
    memset(out, 0, sizeof(*out));
    if (rte_eth_dev_get_name_by_port(port, out->name) != 0)
        out->name[0] = '\0';
    snprintf(out->driver, sizeof(out->driver), "%s", info.driver_name != NULL ? info.driver_name : "");
    out->numa_node = rte_eth_dev_socket_id(port);
    out->max_rx_queues = info.max_rx_queues;
    out->max_tx_queues = info.max_tx_queues;
    out->min_mtu = info.min_mtu;
    out->max_mtu = info.max_mtu;
    out->reta_size = info.reta_size;
    out->hash_key_size = info.hash_key_size;
    out->max_mac_addresses = info.max_mac_addrs;
    out->rss = to_ours(rss_bits, COUNT(rss_bits), info.flow_type_rss_offloads);
    out->offloads = to_ours(rx_offload_bits, COUNT(rx_offload_bits), info.rx_offload_capa) |
                    to_ours(tx_offload_bits, COUNT(tx_offload_bits), info.tx_offload_capa);
    return 0;
}

int ng_port_configure(uint16_t port, struct ng_port_config *config)
{
    struct rte_eth_conf conf;
    struct rte_eth_dev_info info;
    int result = rte_eth_dev_info_get(port, &info);

    if (result != 0)
        return result;
    memset(&conf, 0, sizeof(conf));
    conf.rxmode.mtu = config->mtu;
    if (config->checksum)
        conf.rxmode.offloads = info.rx_offload_capa & (RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_TCP_CKSUM |
                                                       RTE_ETH_RX_OFFLOAD_UDP_CKSUM);
    if (config->rss != 0 && config->rx_queues > 1) {
        const uint64_t only = RTE_ETH_RSS_L3_SRC_ONLY | RTE_ETH_RSS_L3_DST_ONLY | RTE_ETH_RSS_L4_SRC_ONLY |
                              RTE_ETH_RSS_L4_DST_ONLY;
        uint64_t types = to_theirs(rss_bits, COUNT(rss_bits), config->rss) & info.flow_type_rss_offloads;

        if ((types & ~only) != 0) {
            conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
            conf.rxmode.offloads |= info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_RSS_HASH;
            conf.rx_adv_conf.rss_conf.rss_hf = types;
            if (config->rss_key != NULL && config->rss_key_len == info.hash_key_size) {
                conf.rx_adv_conf.rss_conf.rss_key = (uint8_t *)(uintptr_t)config->rss_key;
                conf.rx_adv_conf.rss_conf.rss_key_len = config->rss_key_len;
            }
        }
    }
    config->rss_used = to_ours(rss_bits, COUNT(rss_bits), conf.rx_adv_conf.rss_conf.rss_hf);
    config->offloads_used = to_ours(rx_offload_bits, COUNT(rx_offload_bits), conf.rxmode.offloads);
    return rte_eth_dev_configure(port, config->rx_queues, config->tx_queues, &conf);
}

int ng_port_descriptors(uint16_t port, uint16_t *rx, uint16_t *tx)
{
    return rte_eth_dev_adjust_nb_rx_tx_desc(port, rx, tx);
}

int ng_rx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors, struct ng_pool *pool)
{
    return rte_eth_rx_queue_setup(port, queue, descriptors, (unsigned int)rte_eth_dev_socket_id(port), NULL,
                                  (struct rte_mempool *)pool);
}

int ng_tx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors)
{
    return rte_eth_tx_queue_setup(port, queue, descriptors, (unsigned int)rte_eth_dev_socket_id(port), NULL);
}

int ng_port_start(uint16_t port)
{
    return rte_eth_dev_start(port);
}

int ng_port_stop(uint16_t port)
{
    return rte_eth_dev_stop(port);
}

int ng_port_close(uint16_t port)
{
    return rte_eth_dev_close(port);
}

int ng_port_mtu(uint16_t port, uint16_t *mtu)
{
    return rte_eth_dev_get_mtu(port, mtu);
}

int ng_port_set_mtu(uint16_t port, uint16_t mtu)
{
    return rte_eth_dev_set_mtu(port, mtu);
}

int ng_port_mac(uint16_t port, uint8_t mac[6])
{
    struct rte_ether_addr address;
    int result = rte_eth_macaddr_get(port, &address);

    if (result == 0)
        memcpy(mac, address.addr_bytes, 6);
    return result;
}

int ng_port_set_mac(uint16_t port, const uint8_t mac[6])
{
    struct rte_ether_addr address;

    memcpy(address.addr_bytes, mac, 6);
    return rte_eth_dev_default_mac_addr_set(port, &address);
}

int ng_port_add_mac(uint16_t port, const uint8_t mac[6])
{
    struct rte_ether_addr address;

    memcpy(address.addr_bytes, mac, 6);
    return rte_eth_dev_mac_addr_add(port, &address, 0);
}

int ng_port_promiscuous(uint16_t port, int on)
{
    return on ? rte_eth_promiscuous_enable(port) : rte_eth_promiscuous_disable(port);
}

int ng_port_allmulticast(uint16_t port, int on)
{
    return on ? rte_eth_allmulticast_enable(port) : rte_eth_allmulticast_disable(port);
}

/* The key in force, which has the given length. */
int ng_port_rss_key(uint16_t port, uint8_t *key, uint8_t length)
{
    struct rte_eth_rss_conf conf = {.rss_key = key, .rss_key_len = length};

    return length == 0 ? -ENOTSUP : rte_eth_dev_rss_hash_conf_get(port, &conf);
}

int ng_port_set_reta(uint16_t port, const uint16_t *queues, uint16_t count)
{
    struct rte_eth_rss_reta_entry64 groups[RTE_ETH_RSS_RETA_SIZE_512 / RTE_ETH_RETA_GROUP_SIZE];

    if (count == 0 || count > RTE_ETH_RSS_RETA_SIZE_512)
        return -EINVAL;
    memset(groups, 0, sizeof(groups));
    for (uint16_t i = 0; i < count; i++) {
        struct rte_eth_rss_reta_entry64 *group = &groups[i / RTE_ETH_RETA_GROUP_SIZE];

        group->mask |= UINT64_C(1) << (i % RTE_ETH_RETA_GROUP_SIZE);
        group->reta[i % RTE_ETH_RETA_GROUP_SIZE] = queues[i];
    }
    return rte_eth_dev_rss_reta_update(port, groups, count);
}

_Static_assert(NG_BOND_ACTIVE_BACKUP == BONDING_MODE_ACTIVE_BACKUP, "bond mode");
_Static_assert(NG_BOND_BALANCE == BONDING_MODE_BALANCE, "bond mode");
_Static_assert(NG_BOND_LACP == BONDING_MODE_8023AD, "bond mode");

int ng_bond_create(const char *name, uint32_t mode, const uint16_t *members, uint16_t count)
{
    const int node = count > 0 ? rte_eth_dev_socket_id(members[0]) : 0;
    int result = 0;
    int bond = rte_eth_bond_create(name, (uint8_t)mode, (uint8_t)(node < 0 ? 0 : node));

    if (bond < 0)
        return bond;
    for (uint16_t i = 0; i < count && result == 0; i++)
        result = rte_eth_bond_slave_add((uint16_t)bond, members[i]);
    if (result == 0 && mode != NG_BOND_ACTIVE_BACKUP)
        result = rte_eth_bond_xmit_policy_set((uint16_t)bond, BALANCE_XMIT_POLICY_LAYER34);
    if (result == 0)
        return bond;
    rte_eth_bond_free(name);
    return result < -1 ? result : -EINVAL;
}

int ng_bond_set_primary(uint16_t bond, uint16_t member)
{
    return rte_eth_bond_primary_set(bond, member) == 0 ? 0 : -EINVAL;
}

int ng_port_link(uint16_t port, struct ng_link *out)
{
    struct rte_eth_link link;
    int result;

    memset(&link, 0, sizeof(link));
    result = rte_eth_link_get_nowait(port, &link);
    if (result != 0)
        return result;
    out->up = link.link_status == RTE_ETH_LINK_UP;
    out->full_duplex = link.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
    out->speed_mbps = link.link_speed == RTE_ETH_SPEED_NUM_UNKNOWN ? 0 : link.link_speed;
    return 0;
}

int ng_port_stats(uint16_t port, struct ng_stats *out)
{
    struct rte_eth_stats stats;
    int result = rte_eth_stats_get(port, &stats);

    if (result != 0)
        return result;
    out->rx_packets = stats.ipackets;
    out->tx_packets = stats.opackets;
    out->rx_bytes = stats.ibytes;
    out->tx_bytes = stats.obytes;
    out->rx_missed = stats.imissed;
    out->rx_errors = stats.ierrors;
    out->tx_errors = stats.oerrors;
    out->rx_no_buffer = stats.rx_nombuf;
    return 0;
}

int ng_port_stats_reset(uint16_t port)
{
    return rte_eth_stats_reset(port);
}

/* Fills at most `capacity` rows and returns how many the port has: call with 0 to learn it. */
int ng_port_xstats(uint16_t port, struct ng_xstat *out, uint32_t capacity)
{
    struct rte_eth_xstat_name *names;
    struct rte_eth_xstat *values;
    const int rows = rte_eth_xstats_get_names(port, NULL, 0);
    int count = rows;

    if (count <= 0 || (uint32_t)count > capacity)
        return count;
    names = calloc((size_t)count, sizeof(*names));
    values = calloc((size_t)count, sizeof(*values));
    if (names == NULL || values == NULL) {
        free(names);
        free(values);
        return -ENOMEM;
    }
    count = rte_eth_xstats_get_names(port, names, (unsigned int)count) == count
                ? rte_eth_xstats_get(port, values, (unsigned int)count)
                : -EAGAIN;
    if (count > rows)
        count = -EAGAIN;
    for (int i = 0; i < count; i++) {
        const char *name = values[i].id < (uint64_t)rows ? names[values[i].id].name : "";

        snprintf(out[i].name, sizeof(out[i].name), "%s", name);
        out[i].value = values[i].value;
    }
    free(names);
    free(values);
    return count;
}

/*
 * Two faults of DPDK's af_packet driver, mended where it calls the C library: it calls setsockopt by name, so this
 * definition in the executable stands in front of the library's.
 *
 * It asks the kernel to put IP fragments together before it hands packets over (PACKET_FANOUT_FLAG_DEFRAG) and offers no
 * argument against it. A gateway must see fragments as they came: whole datagrams would not fit the driver's slots.
 *
 * It makes up the number of each port's fanout group from process and interface, so that two processes may come to the
 * same one, which the kernel refuses. Here the first socket of a group gets a number from the kernel, the others join it.
 */
#define FANOUT_GROUPS 256

static struct {
    pthread_mutex_t lock;
    unsigned int count;
    struct {
        uint16_t asked;
        uint16_t given;
    } groups[FANOUT_GROUPS];
} fanout = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int set_option(int fd, int level, int option, const void *value, socklen_t length)
{
    return (int)syscall(SYS_setsockopt, fd, level, option, value, length);
}

/* Joins the group that stands for `asked`, or founds it. `mode` is the upper half of the option's value. */
static int join_fanout(int fd, uint16_t asked, unsigned int mode)
{
    socklen_t length = sizeof(int);
    unsigned int at = 0;
    int value, result = -1;

    pthread_mutex_lock(&fanout.lock);
    while (at < fanout.count && fanout.groups[at].asked != asked)
        at++;
    if (at < fanout.count) {
        value = (int)(mode << 16 | fanout.groups[at].given);
        result = set_option(fd, SOL_PACKET, PACKET_FANOUT, &value, sizeof(value));
    }
    /* A group ends with its last socket; its number may be another's by now. */
    if (result != 0 && at < FANOUT_GROUPS) {
        value = (int)((mode | PACKET_FANOUT_FLAG_UNIQUEID) << 16);
        result = set_option(fd, SOL_PACKET, PACKET_FANOUT, &value, sizeof(value));
        if (result == 0)
            result = getsockopt(fd, SOL_PACKET, PACKET_FANOUT, &value, &length);
        if (result == 0) {
            fanout.groups[at].asked = asked;
            fanout.groups[at].given = (uint16_t)value;
            if (at == fanout.count)
                fanout.count++;
        }
    }
    pthread_mutex_unlock(&fanout.lock);
    return result;
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t length)
{
    unsigned int wanted;

    if (level != SOL_PACKET || option != PACKET_FANOUT || length != sizeof(wanted))
        return set_option(fd, level, option, value, length);
    memcpy(&wanted, value, sizeof(wanted));
    return join_fanout(fd, (uint16_t)wanted, wanted >> 16 & ~(unsigned int)PACKET_FANOUT_FLAG_DEFRAG);
}
