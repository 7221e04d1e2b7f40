//! What an error speaks of: the path, the unit, or the command. One table for all that targets and kernels say.
//!
//! Invariant: an error of the command never fails a path, and one of the path never fails a command. What is not known is
//! the command's, and an I/O error: it is tried on another path, and counts against the path only if that one serves it.
//! Rejected: a table in each back end, which is how the same word comes to mean two things. It does not know protocols:
//! their numbers are told. (NBD: the protocol's list of errors and of error replies; block devices: what Linux makes of
//! `blk_status_t`, and which of those its own multipathing takes for a path's.)

use crate::volume::verdict::TargetError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The way to the unit is broken: what it carried goes elsewhere, and it is connected again.
    Path,
    /// The portal goes away in order: like [`Self::Path`], and nothing is wrong with it.
    Leaving,
    /// There is no such unit, says this portal. Waiting for it is of no use if all of them say so.
    Unit,
    /// The command alone: the target is finished with it, and the path is well.
    Command(TargetError),
}

/// The error of an NBD reply, as it is on the wire.
#[must_use]
pub const fn of_nbd_reply(code: u32) -> Class {
    const ESHUTDOWN: u32 = 108;
    match code {
        EPERM => Class::Command(TargetError::NotPermitted),
        ENOMEM => Class::Command(TargetError::Busy),
        EINVAL | EOVERFLOW | ENOTSUP => Class::Command(TargetError::Invalid),
        ENOSPC => Class::Command(TargetError::NoSpace),
        ESHUTDOWN => Class::Leaving,
        _ => Class::Command(TargetError::Io),
    }
}

const EPERM: u32 = 1;
const ENOMEM: u32 = 12;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;
const ENOTSUP: u32 = 95;

/// An NBD server's refusal of an export (NBD_REP_ERR_…), without its highest bit.
#[must_use]
pub const fn of_nbd_refusal(code: u32) -> Class {
    const UNKNOWN: u32 = 6;
    const SHUTDOWN: u32 = 7;
    match code {
        UNKNOWN => Class::Unit,
        SHUTDOWN => Class::Leaving,
        // UNSUP, POLICY, INVALID, PLATFORM, TLS_REQD, BLOCK_SIZE_REQD, TOO_BIG: this portal is not to be used as it is set up.
        _ => Class::Path,
    }
}

/// The errno of I/O on a block device or file, or of opening it.
#[must_use]
pub const fn of_block(errno: i32) -> Class {
    match errno {
        // A device that has gone (BLK_STS_OFFLINE), a transport that has failed (TRANSPORT), time that has run out (TIMEOUT,
        // DURATION_LIMIT). A device node is one path's: that it is not there says nothing of the unit.
        2 /* ENOENT */ | 6 /* ENXIO */ | 9 /* EBADF */ | 19 /* ENODEV */ | 62 /* ETIME */ | 67 /* ENOLINK */
        | 104 /* ECONNRESET */ | 107 /* ENOTCONN */ | 110 /* ETIMEDOUT */ | 112 /* EHOSTDOWN */
        | 113 /* EHOSTUNREACH */ => Class::Path,
        108 /* ESHUTDOWN */ => Class::Leaving,
        116 /* ESTALE */ | 123 /* ENOMEDIUM */ | 124 /* EMEDIUMTYPE */ => Class::Unit,
        28 /* ENOSPC */ | 122 /* EDQUOT */ => Class::Command(TargetError::NoSpace),
        4 /* EINTR */ | 11 /* EAGAIN */ | 12 /* ENOMEM */ | 16 /* EBUSY */ | 125 /* ECANCELED */ => {
            Class::Command(TargetError::Busy)
        }
        22 /* EINVAL */ | 27 /* EFBIG */ | 95 /* EOPNOTSUPP */ => Class::Command(TargetError::Invalid),
        // A reservation conflict (RESV_CONFLICT) is EBADE: to repeat it elsewhere would be refused again.
        1 /* EPERM */ | 13 /* EACCES */ | 30 /* EROFS */ | 52 /* EBADE */ => {
            Class::Command(TargetError::NotPermitted)
        }
        // A bad medium (ENODATA), bad protection data (EILSEQ), the target's own last word (EREMOTEIO), and EIO: it may be
        // one portal's trouble, so another is asked before the guest hears of it.
        _ => Class::Command(TargetError::Io),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::verdict::TargetError::{Busy, Invalid, Io, NoSpace, NotPermitted};

    #[test]
    fn the_whole_table_of_nbd() {
        let replies: Vec<_> = [1, 5, 12, 22, 28, 75, 95, 108, 4711].into_iter().map(of_nbd_reply).collect();
        let of = Class::Command;
        let expected = [
            of(NotPermitted),
            of(Io),
            of(Busy),
            of(Invalid),
            of(NoSpace),
            of(Invalid),
            of(Invalid),
            Class::Leaving,
            of(Io),
        ];
        assert_eq!(replies, expected);
        let refusals: Vec<_> = (1..=9).map(of_nbd_refusal).collect();
        let path = Class::Path;
        assert_eq!(refusals, [path, path, path, path, path, Class::Unit, Class::Leaving, path, path]);
    }

    #[test]
    fn the_whole_table_of_block_devices() {
        let expected = [
            (Class::Path, &[2, 6, 9, 19, 62, 67, 104, 107, 110, 112, 113][..]),
            (Class::Leaving, &[108]),
            (Class::Unit, &[116, 123, 124]),
            (Class::Command(NoSpace), &[28, 122]),
            (Class::Command(Busy), &[4, 11, 12, 16, 125]),
            (Class::Command(Invalid), &[22, 27, 95]),
            (Class::Command(NotPermitted), &[1, 13, 30, 52]),
        ];
        for errno in 0..200 {
            let listed = expected.iter().find(|(_, all)| all.contains(&errno));
            assert_eq!(of_block(errno), listed.map_or(Class::Command(Io), |(class, _)| *class), "{errno}");
        }
    }
}
