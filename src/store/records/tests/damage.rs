//! Logs with flipped bits: each opens completely, is refused, or reports what it cut off.

use std::collections::BTreeMap;

use super::super::frame::{self, FILE_HEADER, FRAME_HEADER, FileFormat, Header, Tail};
use super::disk::FaultyDisk;
use super::{Model, SMALL, commit, model, open};
use crate::store::records::{Disk, RecordLog};

type Files = BTreeMap<u64, Vec<u8>>;

/// A log in files of format 1: five commits of weir 0.1.0.
const FORMAT_1: [&str; 3] = [
    "776569722d6c6f6701000000e268dc197766726d2e000000d560f347010000000000000007000000000000000000000000000001030000006f6e65070000000000000000000000000000020300000074776f7766726d64000000c4c79367020000000000000007000000000000000000000000000001ffffffff070000000000000000000000000000033c000000030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303",
    "776569722d6c6f6701000000a33763b87766726d50000000ff36c56e0300000000000000070000000000000000000000000000043c0000000404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404047766726d320000006bd4240d040000000000000007000000000000000000000000000002060000007365636f6e64070000000000000000000000000000050400000066697665",
    "776569722d6c6f6701000000e0f4da4f7766726d14000000ae3699b505000000000000000700000000000000000000000000000500000000",
];

fn format_1() -> Files {
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    let file = |hex: &str| hex.as_bytes().chunks(2).map(byte).collect();
    (1..).zip(FORMAT_1.map(file)).collect()
}

fn format_1_model() -> Model {
    let records: [(u64, &[u8]); 4] = [(2, b"second"), (3, &[3; 60]), (4, &[4; 60]), (5, b"")];
    records.into_iter().map(|(key, value)| (key, value.to_vec())).collect()
}

/// A log of several files, its live records, and those without its last commit.
fn several_files() -> (Files, Model, Model) {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).0;
    for number in 0..20 {
        commit(&mut log, &[(number, Some(&[number as u8; 300])), (number / 2, Some(b"again"))]).unwrap();
    }
    let before = open(&disk).1;
    commit(&mut log, &[(99, Some(b"last"))]).unwrap();
    let files = disk.files();
    assert!(files.len() > 3);
    (files, open(&disk).1, before)
}

fn disk_of(files: &Files) -> FaultyDisk {
    let disk = FaultyDisk::new();
    files.iter().for_each(|(number, bytes)| disk.put(*number, bytes));
    disk
}

/// Opens a log; `Ok`: its live records, and how many bytes it cut off.
fn opened(files: &Files) -> Result<(Model, u64), String> {
    let opened = RecordLog::open(disk_of(files), SMALL).map_err(|error| error.to_string())?;
    Ok((model(&opened.stored), opened.torn_bytes))
}

/// Each file with each bit of a range flipped, in turn.
fn with_wrong_bits(files: &Files, bytes: std::ops::Range<usize>, mut check: impl FnMut(u64, usize, &Files)) {
    for (number, file) in files {
        for bit in bytes.start * 8..bytes.end.min(file.len()) * 8 {
            let mut files = files.clone();
            files.get_mut(number).unwrap()[bit / 8] ^= 1 << (bit % 8);
            check(*number, bit, &files);
        }
    }
}

#[test]
fn a_flipped_bit_in_a_header_loses_no_records() {
    let (files, model, _) = several_files();
    for (files, header, model) in [(files, FILE_HEADER, model), (format_1(), 16, format_1_model())] {
        with_wrong_bits(&files, 0..header, |number, bit, files| match opened(files) {
            Ok((found, cut)) => {
                assert!(found == model && cut == 0, "file {number}, bit {bit}: {} records", found.len())
            }
            Err(error) => assert!(error.contains(&format!("file {number} ")), "bit {bit}: {error}"),
        });
    }
}

#[test]
fn a_flipped_bit_loses_at_most_the_last_commit_and_is_reported() {
    let (files, model, before) = several_files();
    let last = *files.keys().last().unwrap();
    let last_frame = files[&last].len() - FRAME_HEADER - 24;
    let mut cut_off = 0;
    with_wrong_bits(&files, 0..usize::MAX, |number, bit, files| match opened(files) {
        Ok((found, 0)) => assert!(found == model, "file {number}, bit {bit}: {} records", found.len()),
        Ok((found, cut)) => {
            assert!(found == before && cut == FRAME_HEADER as u64 + 24, "file {number}, bit {bit}: {cut} cut off");
            assert!(number == last && bit / 8 >= last_frame, "file {number}, bit {bit}: it was not the last commit");
            cut_off += 1;
        }
        Err(error) => assert!(error.contains(&format!("file {number} ")), "bit {bit}: {error}"),
    });
    // A flipped bit in the records of the last commit, or in their checksum, cannot be distinguished from a crash.
    assert_eq!(cut_off, (24 + 4) * 8);
}

#[test]
fn a_zeroed_header_before_data_is_damage() {
    let (mut files, _, _) = several_files();
    let last = *files.keys().last().unwrap();
    files.get_mut(&last).unwrap()[..FILE_HEADER].fill(0);
    let error = opened(&files).unwrap_err();
    assert!(error.contains(&format!("file {last} is damaged")) && error.contains("restore a backup"), "{error}");
}

#[test]
fn an_empty_newest_file_is_removed() {
    let (files, model, _) = several_files();
    let next = files.keys().last().unwrap() + 1;
    let written = frame::file_header(7);
    for left in [
        vec![],
        vec![0; 7],
        vec![0; FILE_HEADER],
        vec![0; 5_000],
        written[..9].to_vec(),
        written[..19].to_vec(),
        vec![0x55; 20],
    ] {
        let mut files = files.clone();
        files.insert(next, left.clone());
        // The file before may end with a partial frame: creating another file came between.
        files.get_mut(&(next - 1)).unwrap().extend(b"wfrm and then the disk was full");
        let disk = disk_of(&files);
        let (mut log, found, _) = open(&disk);
        assert!(found == model, "{left:?}");
        assert!(!disk.list().unwrap().contains(&next));
        for number in 0..8 {
            commit(&mut log, &[(number, Some(&[1; 300]))]).unwrap();
        }
        assert!(disk.list().unwrap().contains(&next));
        assert_eq!(open(&disk).1.len(), model.len());
    }
    let mut files = files;
    let second = *files.keys().nth(1).unwrap();
    files.get_mut(&second).unwrap().clear();
    assert!(opened(&files).unwrap_err().contains(&format!("file {second} is damaged in its header")));
}

#[test]
fn files_of_format_1_are_read_and_not_appended_to() {
    let disk = disk_of(&format_1());
    let (mut log, found, cut) = open(&disk);
    assert_eq!((found, cut), (format_1_model(), 0));
    commit(&mut log, &[(6, Some(&b"six"[..])), (4, None)]).unwrap();
    let mut expected = format_1_model();
    expected.remove(&4);
    expected.insert(6, b"six".to_vec());
    assert_eq!(open(&disk).1, expected);
    let files = disk.files();
    assert_eq!(files.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(format_1().iter().all(|(number, bytes)| files[number] == *bytes), "they are as they were");
    assert_eq!(files[&4][8], 2, "the format of a new file");
    // Cleaning moves their live records and removes them.
    for round in 0..200 {
        commit(&mut log, &[(6, Some(&[round; 300]))]).unwrap();
    }
    expected.insert(6, vec![199; 300]);
    assert!(disk.list().unwrap()[0] > 3);
    assert_eq!(open(&disk).1, expected);
}

#[test]
fn an_incomplete_last_commit_of_format_1_is_cut_off() {
    for cut in 1..40 {
        let mut files = format_1();
        let torn = files[&3].len() - cut;
        files.get_mut(&3).unwrap().truncate(torn);
        let disk = disk_of(&files);
        let (mut log, found, cut_off) = open(&disk);
        let expected = Model::from([(5, b"five".to_vec())]);
        assert_eq!(
            (found[&5].clone(), cut_off),
            (expected[&5].clone(), torn.saturating_sub(16) as u64),
            "cut by {cut}"
        );
        commit(&mut log, &[(6, Some(b"six"))]).unwrap();
        assert_eq!(open(&disk).1.len(), 5);
    }
}

/// 4 MB that look like frames of a commit, as a client can make them; `at`: where the format has the commit's number.
fn fake_frames(number: u64, at: usize) -> Vec<u8> {
    let mut frame = [0; 24];
    frame[..4].copy_from_slice(b"wfrm");
    frame[4..8].copy_from_slice(&1_000_000_u32.to_le_bytes());
    frame[at..at + 8].copy_from_slice(&number.to_le_bytes());
    frame.repeat((4 << 20) / frame.len())
}

#[test]
fn the_search_after_an_incomplete_commit_checksums_a_bounded_number_of_bytes() {
    let (files, model, _) = several_files();
    let (last, bytes) = files.last_key_value().unwrap();
    let format = |bytes: &[u8]| match frame::read_file_header(bytes) {
        Header::Valid(format) => format,
        other => panic!("{other:?}"),
    };
    let classify = |format: FileFormat, tail: &[u8]| {
        let mut checked = 0;
        let tail_is = format.classify_tail(tail, 21, false, &mut checked);
        (tail_is, checked / tail.len() as u64)
    };
    for number in [0, 22, 23] {
        let tail = fake_frames(number, 8);
        assert_eq!(classify(format(bytes), &tail), (Tail::Torn, 0), "numbered {number}");
        let mut files = files.clone();
        files.get_mut(last).unwrap().extend(&tail);
        assert_eq!(opened(&files).unwrap(), (model.clone(), tail.len() as u64));
        // In format 1 every possible later number is checked; above a bound it counts as damage.
        let (tail_is, times) = classify(format(&format_1()[&1]), &fake_frames(number, 12));
        assert!(times <= 9, "{times} times the tail");
        assert_eq!(tail_is, if number == 0 { Tail::Torn } else { Tail::Damaged });
    }
}

#[test]
fn records_read_after_a_kill_survive_a_power_failure() {
    use super::Random;
    use super::disk::Fault;
    let mut random = Random(1);
    for fault in [Fault::FailsSync, Fault::FailsDirectorySync] {
        for _ in 0..50 {
            let disk = FaultyDisk::new();
            let mut log = open(&disk).0;
            commit(&mut log, &[(1, Some(&[1; 1_900]))]).unwrap();
            disk.set_fault(Some(fault));
            commit(&mut log, &[(2, Some(&[2; 20]))]).unwrap_err();
            disk.set_fault(None);
            disk.kill();
            let (mut log, served, _) = open(&disk);
            assert_eq!(open(&disk.cut_power(&mut random)).1, served);
            commit(&mut log, &[(3, Some(&[3; 20]))]).unwrap();
            assert!(open(&disk.cut_power(&mut random)).1.contains_key(&3));
        }
    }
}
