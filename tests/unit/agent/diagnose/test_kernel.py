"""Lines of real kernels on memory, heat and storage are found, from either place, and no others leave the device."""

import subprocess

import pytest

from agent.diagnose.kernel import JOURNALCTL, MOST_LINES, kernel_lines, telling_lines

# Records as /dev/kmsg gives them (Documentation/ABI/testing/dev-kmsg): "priority,sequence,microseconds,flags;text",
# and below a record lines of its dictionary, each after a space.
KMSG = """\
6,339,5140900,-;NET: Registered PF_INET6 protocol family
30,340,5690716,-;udevd[80]: starting version 181
 SUBSYSTEM=acpi
 DEVICE=+acpi:PNP0A03:00
4,1201,86412345678,-;python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
6,1202,86412400000,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,task=python3
3,1203,86412400100,-;Memory cgroup out of memory: Killed process 812 (python3) total-vm:912344kB, anon-rss:402112kB
6,1204,86412500000,-;oom_reaper: reaped process 812 (python3), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB
2,1300,90000000001,-;CPU0: Core temperature above threshold, cpu clock throttled (total events = 1)
0,1301,90000000002,-;thermal thermal_zone0: critical temperature reached (105 C), shutting down
4,1302,90000000003,-;hwmon hwmon1: Undervoltage detected!
3,1400,91000000000,c;mmc0: error -110 whilst initialising SD card
3,1401,91000000001,-;blk_update_request: I/O error, dev mmcblk0, sector 7342080 op 0x1:(WRITE) flags 0x800
2,1402,91000000002,-;EXT4-fs error (device mmcblk0p2): ext4_find_entry:1455: inode #131: comm python3: reading
2,1403,91000000003,-;EXT4-fs (mmcblk0p2): Remounting filesystem read-only
6,1500,92000000000,-;zoom_camera: room temp_ file opened by user bob
6,1501,92000000001,-;usb 1-1.3: New USB device found, idVendor=0bda, SerialNumber=secret-serial
"""
# The same, as `journalctl -k -o short-iso` writes it.
JOURNAL = """\
2026-11-24T03:10:11+0000 cam-1 kernel: python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0
2026-11-24T03:10:11+0000 cam-1 kernel: Out of memory: Killed process 812 (python3) total-vm:912344kB, anon-rss:402112kB
2026-11-24T03:10:12+0000 cam-1 kernel: usb 1-1.3: New USB device found, idVendor=0bda
2026-11-24T03:11:00+0000 cam-1 kernel: nvme nvme0: controller is down; will reset: CSTS=0xffffffff
2026-11-24T03:11:01+0000 cam-1 kernel: watchdog: BUG: soft lockup - CPU#1 stuck for 23s! [python3:812]
2026-11-24T03:11:02+0000 cam-1 kernel: NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.
"""


def kmsg(tmp_path, text=KMSG):
    path = tmp_path / "kmsg"
    path.write_text(text)
    return path


def test_memory_heat_and_storage_are_told_with_their_time_and_nothing_else(tmp_path):
    lines, source = kernel_lines(kmsg(tmp_path))
    assert source == f"read from {tmp_path / 'kmsg'}"
    assert [line.partition("] ")[2][:24] for line in lines] == [
        "python3 invoked oom-kill",
        "oom-kill:constraint=CONS",
        "Memory cgroup out of mem",
        "oom_reaper: reaped proce",
        "CPU0: Core temperature a",
        "thermal thermal_zone0: c",
        "hwmon hwmon1: Undervolta",
        "mmc0: error -110 whilst ",
        "blk_update_request: I/O ",
        "EXT4-fs error (device mm",
        "EXT4-fs (mmcblk0p2): Rem",
    ]
    assert lines[0].startswith("[86412.345678] ")
    assert "secret-serial" not in str(lines)


def test_the_newest_lines_are_told_where_there_are_too_many(tmp_path):
    text = "".join(f"3,{n},{n},-;Out of memory: Killed process {n} (x)\n" for n in range(5000))
    lines, _ = kernel_lines(kmsg(tmp_path, text))
    assert len(lines) == MOST_LINES
    assert "process 4999 " in lines[-1]


def test_the_journal_is_asked_where_the_kernels_log_may_not_be_read(tmp_path):
    asked = []

    def ask(command):
        asked.append(tuple(command))
        return JOURNAL

    lines, source = kernel_lines(tmp_path / "none", ask)
    assert asked == [JOURNALCTL]
    assert [line.partition("kernel: ")[2][:12] for line in lines] == [
        "python3 invo",
        "Out of memor",
        "nvme nvme0: ",
        "watchdog: BU",
        "NVRM: Xid (P",
    ]
    assert "none cannot be read (No such file or directory); read from journalctl" in source


@pytest.mark.parametrize("error", [FileNotFoundError("journalctl"), subprocess.CalledProcessError(1, "journalctl")])
def test_where_neither_may_be_read_it_is_said_in_words(tmp_path, error):
    def ask(_command):
        raise error

    lines, source = kernel_lines(tmp_path / "none", ask)
    assert lines == []
    assert source.endswith(f"journalctl cannot be asked ({type(error).__name__})")


def test_damaged_records_do_no_harm():
    assert telling_lines(["", ";;;", "\ufffd\ufffd", "a,b"]) == []


def test_records_without_a_time_are_told_all_the_same(tmp_path):
    lines, _ = kernel_lines(kmsg(tmp_path, "Out of memory: no head\nx,y,zz,-;thermal: odd head\n"))
    assert lines == ["[    0.000000] Out of memory: no head", "[    0.000000] thermal: odd head"]
