//! From the `vhost` crate's calls to the device. Messages that were not offered are refused.

use super::device::Device;
use super::queue::{Addresses, Enabled};
use super::world::Shape;
use crate::sys::guest::{Place, REGIONS_MAX};
use crate::sys::inflight::{self, Layout};
use std::cell::RefCell;
use std::fs::File;
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandler, VhostUserProtocolFeatures};

/// Where the device is while a message is applied to it.
#[derive(Debug)]
pub(super) struct Handler(RefCell<Device>);

impl Handler {
    pub(super) fn new(shape: &Shape) -> Self {
        Self(RefCell::new(Device::vacant(shape)))
    }

    /// Hands the device over, or back.
    pub(super) fn swap(&self, device: &mut Device) {
        std::mem::swap(&mut *self.0.borrow_mut(), device);
    }
}

fn place(region: &VhostUserMemoryRegion) -> Place {
    Place {
        gpa: region.guest_phys_addr,
        user: region.user_addr,
        bytes: region.memory_size,
        offset: region.mmap_offset,
    }
}

fn layout(message: &VhostUserInflight) -> Layout {
    Layout {
        offset: message.mmap_offset,
        bytes: message.mmap_size,
        queues: message.num_queues,
        queue_size: message.queue_size,
    }
}

const NOT_OFFERED: Error = Error::InvalidOperation("it was not offered");

impl VhostUserBackendReqHandler for Handler {
    fn set_owner(&self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&self) -> Result<()> {
        self.0.borrow_mut().stop_all();
        Ok(())
    }

    fn reset_device(&self) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn get_features(&self) -> Result<u64> {
        Ok(self.0.borrow().world.offered)
    }

    fn set_features(&self, features: u64) -> Result<()> {
        self.0.borrow_mut().set_features(features)
    }

    fn set_mem_table(
        &self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let regions = regions.iter().map(place).zip(files).collect();
        self.0.borrow_mut().set_memory(regions).map(|()| None)
    }

    fn set_vring_num(&self, index: u32, num: u32) -> Result<()> {
        self.0.borrow_mut().set_num(index, num)
    }

    fn set_vring_addr(
        &self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        let told = Addresses { descriptors: descriptor, available, used };
        let log = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG).then_some(log);
        self.0.borrow_mut().set_addresses(index, told, log)
    }

    fn set_vring_base(&self, index: u32, base: u32) -> Result<()> {
        self.0.borrow_mut().set_base(index, base)
    }

    fn get_vring_base(&self, index: u32) -> Result<VhostUserVringState> {
        let base = self.0.borrow_mut().stop(index)?;
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&self, index: u8, fd: Option<File>) -> Result<()> {
        self.0.borrow_mut().set_kick(index.into(), fd)
    }

    fn set_vring_call(&self, index: u8, fd: Option<File>) -> Result<()> {
        self.0.borrow_mut().set_call(index.into(), fd)
    }

    fn set_vring_err(&self, index: u8, fd: Option<File>) -> Result<()> {
        self.0.borrow_mut().set_error(index.into(), fd)
    }

    fn get_protocol_features(&self) -> Result<VhostUserProtocolFeatures> {
        Ok(Device::protocol_offered())
    }

    fn set_protocol_features(&self, features: u64) -> Result<()> {
        if features & !Device::protocol_offered().bits() != 0 {
            return Err(Error::InvalidParam);
        }
        self.0.borrow_mut().protocol_features = features;
        Ok(())
    }

    fn get_queue_num(&self) -> Result<u64> {
        Ok(self.0.borrow().queues.len() as u64)
    }

    fn set_vring_enable(&self, index: u32, enable: bool) -> Result<()> {
        let enabled = if enable { Enabled::Yes } else { Enabled::No };
        self.0.borrow_mut().set_enabled(index, enabled)
    }

    fn get_config(&self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        self.0.borrow().config(offset, size)
    }

    /// A guest may write to its config space at any time; nothing in it can be changed.
    fn set_config(&self, _offset: u32, _bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Ok(())
    }

    fn set_gpu_socket(&self, _socket: GpuBackend) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn get_shared_object(&self, _id: VhostUserSharedMsg) -> Result<File> {
        Err(NOT_OFFERED)
    }

    fn get_inflight_fd(&self, asked: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let layout = Layout::new(asked.num_queues, asked.queue_size);
        let file = inflight::create(layout).map_err(Error::ReqHandlerError)?;
        Ok((VhostUserInflight::new(layout.bytes, layout.offset, layout.queues, layout.queue_size), file))
    }

    fn set_inflight_fd(&self, message: &VhostUserInflight, file: File) -> Result<()> {
        self.0.borrow_mut().set_inflight(layout(message), &file)
    }

    fn get_max_mem_slots(&self) -> Result<u64> {
        Ok(REGIONS_MAX as u64)
    }

    fn add_mem_region(
        &self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        self.0.borrow_mut().add_memory(place(region), &file).map(|()| None)
    }

    fn remove_mem_region(&self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.0.borrow_mut().remove_memory(place(region))
    }

    fn set_device_state_fd(
        &self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        Err(NOT_OFFERED)
    }

    fn check_device_state(&self) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn get_shmem_config(&self) -> Result<VhostUserShMemConfig> {
        Err(NOT_OFFERED)
    }

    fn set_log_base(&self, log: &VhostUserLog, file: File) -> Result<()> {
        self.0.borrow_mut().set_log(&file, log.mmap_offset, log.mmap_size)
    }
}
