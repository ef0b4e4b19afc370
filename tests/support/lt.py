#!/usr/bin/env python3
"""libtorrent as a program for the tests: no LSD, UPnP, NAT-PMP or uTP, and no DHT without enable_dht=1; one address per
process.

make PATH INFO PIECE_KIB                        writes the bencoded v1 info dictionary of PATH to INFO
show TORRENT                                    prints what it reads in TORRENT as JSON
seed TORRENT DIR ADDR:PORT STATUS [RATE] [SETTING=VALUE...]
                                                serves DIR, uploads at most RATE bytes per second
leech TORRENT DIR ADDR:PORT STATUS [PEER...] [SETTING=VALUE...]
                                                downloads to DIR, exits 0 when all of it is there; with stays=1
                                                it stays as a seed
node ADDR:PORT [SETTING=VALUE...]               a node of the DHT, which prints what it is told

TORRENT of leech may be a magnet link. STATUS is a JSON file, replaced as things change: done (0..1), uploaded, downloaded, peers, state.
"""
import json
import os
import sys
import time

import libtorrent as lt


def make(path, info, piece_kib):
    storage = lt.file_storage()
    lt.add_files(storage, path)
    torrent = lt.create_torrent(storage, int(piece_kib) * 1024, flags=lt.create_torrent.v1_only)
    lt.set_piece_hashes(torrent, os.path.dirname(os.path.abspath(path)))
    with open(info, 'wb') as out:
        out.write(lt.bencode(torrent.generate()[b'info']))


def hybrid(path, torrent, piece_kib, url):
    storage = lt.file_storage()
    lt.add_files(storage, path)
    made = lt.create_torrent(storage, int(piece_kib) * 1024)
    made.add_url_seed(url)
    lt.set_piece_hashes(made, os.path.dirname(os.path.abspath(path)))
    with open(torrent, 'wb') as out:
        out.write(lt.bencode(made.generate()))


def show(torrent):
    params = lt.load_torrent_file(torrent)
    info = params.ti
    files = info.layout() if hasattr(info, 'layout') else info.files()
    listed = []
    for n in range(files.num_files()):
        flags = files.file_flags(n)
        link = files.symlink(n) if flags & lt.file_flags_t.flag_symlink else ''
        listed.append({'path': files.file_path(n), 'size': files.file_size(n), 'link': link,
                       'executable': bool(flags & lt.file_flags_t.flag_executable)})
    print(json.dumps({
        'info_hash': str(info.info_hashes().v1), 'piece_length': info.piece_length(), 'files': listed,
        'private': info.priv(), 'trackers': [list(pair) for pair in zip(params.trackers, params.tracker_tiers)],
        'web_seeds': params.url_seeds, 'creator': params.created_by, 'comment': params.comment}))


def packed(address, settings, rate=0):
    return {
        'listen_interfaces': address, 'outgoing_interfaces': address.rsplit(':', 1)[0].strip('[]'),
        'enable_dht': False, 'enable_lsd': False, 'enable_upnp': False, 'enable_natpmp': False,
        'enable_incoming_utp': False, 'enable_outgoing_utp': False, 'ssrf_mitigation': False,
        'allow_multiple_connections_per_ip': True, 'rate_limit_ip_overhead': False, 'unchoke_slots_limit': 16,
        'tick_interval': 50, 'max_out_request_queue': 1000, 'alert_mask': lt.alert.category_t.error_notification,
        # Nodes of a lab are neighbours.
        'dht_restrict_routing_ips': False, 'dht_restrict_search_ips': False, 'dht_ignore_dark_internet': False,
        'dht_bootstrap_nodes': '', 'upload_rate_limit': rate, **settings}


def start(torrent, directory, address, seeding, settings, rate=0):
    session = lt.session(packed(address, settings, rate))
    if rate or 'download_rate_limit' in settings:
        # Local peers are exempt from limits unless they are in the global class.
        everyone = lt.ip_filter()
        everyone.add_rule('0.0.0.0', '255.255.255.255', 1)
        session.set_peer_class_filter(everyone)
    if torrent.startswith('magnet:'):
        params = lt.parse_magnet_uri(torrent)
    else:
        params = lt.add_torrent_params()
        params.ti = lt.torrent_info(torrent)
    params.save_path = directory
    # It would begin paused and close every connection until its manager has its turn.
    params.flags &= ~lt.torrent_flags.paused
    if seeding:
        params.flags |= lt.torrent_flags.seed_mode
    return session, session.add_torrent(params)


def node(address, *more):
    session = lt.session(packed(address, {
        'enable_dht': True, 'alert_mask': lt.alert.category_t.dht_notification, **settings_of(more)}))
    while True:
        for alert in session.pop_alerts():
            print(alert, file=sys.stderr, flush=True)
        time.sleep(0.05)


def settings_of(words):
    pairs = (word.partition('=') for word in words if '=' in word)
    return {key: int(value) if value.isdigit() else value for key, _, value in pairs}


def report(session, handle, path):
    if session.is_dht_running() and time.monotonic() - report.asked > 1:
        report.asked = time.monotonic()
        handle.force_dht_announce()
    for alert in session.pop_alerts():
        print(alert, file=sys.stderr, flush=True)
    s = handle.status()
    greeted = [p for p in handle.get_peer_info() if not p.flags & (lt.peer_info.handshake | lt.peer_info.connecting)]
    text = json.dumps({'done': s.progress, 'uploaded': s.total_payload_upload, 'downloaded': s.total_payload_download,
                       'peers': len(greeted), 'state': str(s.state)})
    with open(path + '.new', 'w') as out:
        out.write(text)
    os.replace(path + '.new', path)
    return s.is_seeding


report.asked = 0


def main():
    verb, *rest = sys.argv[1:]
    if verb == 'make':
        return make(*rest)
    if verb == 'hybrid':
        return hybrid(*rest)
    if verb == 'show':
        return show(*rest)
    if verb == 'node':
        return node(*rest)
    torrent, directory, address, status, *more = rest
    settings = settings_of(more)
    more = [one for one in more if '=' not in one]
    if verb == 'seed':
        session, handle = start(torrent, directory, address, True, settings, int(more[0]) if more else 0)
        while True:
            report(session, handle, status)
            time.sleep(0.05)
    stays = settings.pop('stays', 0)
    session, handle = start(torrent, directory, address, False, settings)
    for peer in more:
        ip, port = peer.rsplit(':', 1)
        handle.connect_peer((ip.strip('[]'), int(port)))
    while not report(session, handle, status) or stays:
        time.sleep(0.02)
    session.remove_torrent(handle)
    del handle, session


if __name__ == '__main__':
    main()
