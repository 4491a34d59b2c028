"""Every code of NVIDIA's Xid catalog: code | mnemonic | resolution bucket | family | what it means.

Source of codes, mnemonics and buckets ("Immediate Action"): NVIDIA, "Analyzing Xid Errors with the Xid Catalog", as of
2025-10, where leptonai/gpud copies it into `components/accelerator/nvidia/xid/catalog_generated.go` (2025-10-29). The
names are those of `nverror.h` in NVIDIA/open-gpu-kernel-modules, without ROBUST_CHANNEL_. No bucket is given for 162 to
172: `-`. The families and the words are this project's.
"""

XID_ROWS = """\
1 | FIFO_ERROR_FIFO_METHOD | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
2 | FIFO_ERROR_SW_METHOD | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
3 | FIFO_ERROR_UNK_METHOD | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
4 | FIFO_ERROR_CHANNEL_BUSY | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
5 | FIFO_ERROR_RUNOUT_OVERFLOW | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
6 | FIFO_ERROR_PARSE_ERR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
7 | FIFO_ERROR_PTE_ERR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
8 | FIFO_ERROR_IDLE_TIMEOUT | RESTART_APP | application | a channel of the GPU did not become idle
9 | GR_ERROR_INSTANCE | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
10 | GR_ERROR_SINGLE_STEP | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
11 | GR_ERROR_MISSING_HW | RESTART_APP | application | a command stream is invalid
12 | GR_ERROR_SW_METHOD | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
13 | GR_EXCEPTION | RESTART_APP | application | a kernel failed: address, instruction or assertion
14 | FAKE_ERROR | IGNORE | info | not a real error
15 | SCANLINE_TIMEOUT | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
16 | VBLANK_CALLBACK_TIMEOUT | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
17 | PARAMETER_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
18 | BUS_MASTER_TIMEOUT_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
19 | DISP_MISSED_NOTIFIER | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
20 | MPEG_ERROR_SW_METHOD | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
21 | ME_ERROR_SW_METHOD | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
22 | VP_ERROR_SW_METHOD | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
23 | RC_LOGGING_ENABLED | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
24 | GR_SEMAPHORE_TIMEOUT | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
25 | GR_ILLEGAL_NOTIFY | RESTART_APP | application | a command stream is illegal
26 | FIFO_ERROR_FBISTATE_TIMEOUT | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
27 | VP_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
28 | VP2_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
29 | BSP_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
30 | BAD_ADDR_ACCESS | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
31 | FIFO_ERROR_MMU_ERR_FLT | RESTART_APP | application | a program accessed an address of GPU memory that is not mapped
32 | PBDMA_ERROR | RESTART_APP | application | the DMA engine for commands read an invalid command stream
33 | SEC_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
34 | MSVLD_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
35 | MSPDEC_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
36 | MSPPP_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
37 | FECS_ERR_UNIMP_FIRMWARE_METHOD | IGNORE | firmware | the driver called a firmware method that is not there
38 | FECS_ERR_WATCHDOG_TIMEOUT | IGNORE | firmware | the watchdog of the context-switch firmware expired
39 | CE0_ERROR | RESTART_APP | engine | copy engine 0 reported an error
40 | CE1_ERROR | RESTART_APP | engine | copy engine 1 reported an error
41 | CE2_ERROR | RESTART_APP | engine | copy engine 2 reported an error
42 | VIC_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
43 | RESETCHANNEL_VERIF_ERROR | IGNORE | application | a channel of a program was stopped after an error of its own
44 | GR_FAULT_DURING_CTXSW | IGNORE | engine | a fault during a context switch
45 | PREEMPTIVE_REMOVAL | WORKFLOW_XID_45 | consequence | channels were removed: after an error, or their program ended
46 | GPU_TIMEOUT_ERROR | RESET_GPU | engine | the GPU stopped processing
47 | NVENC0_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
48 | GPU_ECC_DBE | WORKFLOW_XID_48 | memory | an uncorrectable ECC error
49 | SILENT_RUNNING_CONSTANT_LEVEL_SET_BY_REGISTRY | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
50 | SILENT_RUNNING_LEVEL_TRANSITION_DUE_TO_RC_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
51 | SILENT_RUNNING_STRESS_TEST_FAILURE | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
52 | SILENT_RUNNING_LEVEL_TRANS_DUE_TO_TEMP_RISE | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
53 | SILENT_RUNNING_TEMP_REDUCED_CLOCKING | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
54 | SILENT_RUNNING_PWR_REDUCED_CLOCKING | CHECK_MECHANICALS | power | a power cable of the board is not connected
55 | SILENT_RUNNING_TEMPERATURE_READ_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
56 | DISPLAY_CHANNEL_EXCEPTION | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
57 | FB_LINK_TRAINING_FAILURE_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
58 | FB_MEMORY_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
59 | PMU_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
60 | SEC2_ERROR | RESTART_APP | engine | the security engine reported an error
61 | PMU_BREAKPOINT | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
62 | PMU_HALT_ERROR | RESET_GPU | firmware | an internal controller halted
63 | INFOROM_DRAM_RETIREMENT_EVENT | IGNORE | memory | a memory row will be remapped at the next reset
64 | INFOROM_DRAM_RETIREMENT_FAILURE | RESET_GPU | memory | a memory row could not be remapped
65 | NVENC1_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
66 | FECS_ERR_REG_ACCESS_VIOLATION | IGNORE | firmware | the driver accessed a register that it may not
67 | FECS_ERR_VERIF_VIOLATION | IGNORE | firmware | the driver did something that the firmware does not allow
68 | NVDEC0_ERROR | RESTART_APP | engine | video decoder 0 reported an error
69 | GR_CLASS_ERROR | RESTART_APP | application | a program used a method of the compute class wrongly
70 | CE3_ERROR | RESTART_APP | engine | copy engine 3 reported an error
71 | CE4_ERROR | RESTART_APP | engine | copy engine 4 reported an error
72 | CE5_ERROR | RESTART_APP | engine | copy engine 5 reported an error
73 | NVENC2_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
74 | NVLINK_ERROR | WORKFLOW_NVLINK_ERR | link | an NVLink error (before Blackwell)
75 | CE6_ERROR | RESTART_APP | engine | copy engine 6 reported an error
76 | CE7_ERROR | RESTART_APP | engine | copy engine 7 reported an error
77 | CE8_ERROR | RESTART_APP | engine | copy engine 8 reported an error
78 | VGPU_START_ERROR | UPDATE_SWFW | software | a vGPU could not be started
79 | GPU_HAS_FALLEN_OFF_THE_BUS | RESTART_BM | bus | the GPU does not answer on PCIe
80 | PBDMA_PUSHBUFFER_CRC_MISMATCH | RESTART_APP | application | commands arrived damaged at the GPU
81 | VGA_SUBSYSTEM_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
82 | NVJPG0_ERROR | RESTART_APP | engine | JPEG engine 0 reported an error
83 | NVDEC1_ERROR | RESTART_APP | engine | video decoder 1 reported an error
84 | NVDEC2_ERROR | RESTART_APP | engine | video decoder 2 reported an error
85 | CE9_ERROR | RESTART_APP | engine | copy engine 9 reported an error
86 | OFA0_ERROR | RESTART_APP | engine | optical-flow engine 0 reported an error
87 | NVTELEMETRY_DRIVER_REPORT | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
88 | NVDEC3_ERROR | RESTART_APP | engine | video decoder 3 reported an error
89 | NVDEC4_ERROR | RESTART_APP | engine | video decoder 4 reported an error
90 | LTC_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
91 | RESERVED_XID | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
92 | EXCESSIVE_SBE_INTERRUPTS | IGNORE | memory | many correctable ECC errors
93 | INFOROM_ERASE_LIMIT_EXCEEDED | IGNORE | info | the InfoROM was written more often than planned
94 | CONTAINED_ERROR | RESTART_APP | memory | an uncorrectable memory error, contained: only its program was ended
95 | UNCONTAINED_ERROR | RESET_GPU | memory | an uncontained memory error: all programs of the GPU are affected
96 | NVDEC5_ERROR | RESTART_APP | engine | video decoder 5 reported an error
97 | NVDEC6_ERROR | RESTART_APP | engine | video decoder 6 reported an error
98 | NVDEC7_ERROR | RESTART_APP | engine | video decoder 7 reported an error
99 | NVJPG1_ERROR | RESTART_APP | engine | JPEG engine 1 reported an error
100 | NVJPG2_ERROR | RESTART_APP | engine | JPEG engine 2 reported an error
101 | NVJPG3_ERROR | RESTART_APP | engine | JPEG engine 3 reported an error
102 | NVJPG4_ERROR | RESTART_APP | engine | JPEG engine 4 reported an error
103 | NVJPG5_ERROR | RESTART_APP | engine | JPEG engine 5 reported an error
104 | NVJPG6_ERROR | RESTART_APP | engine | JPEG engine 6 reported an error
105 | NVJPG7_ERROR | RESTART_APP | engine | JPEG engine 7 reported an error
106 | SMBPBI_TEST_MESSAGE | IGNORE | info | a test message of out-of-band management
107 | SMBPBI_TEST_MESSAGE_SILENT | IGNORE | info | a silent test message of out-of-band management
108 | NVLINK_REMOTE_TRANSLATION_ERROR | IGNORE | link | a remote access over NVLink could not be translated
109 | CTXSW_TIMEOUT_ERROR | RESET_GPU | engine | a context switch did not end
110 | SEC_FAULT_ERROR | RESET_GPU | firmware | a security fault; uncommon without a hardware failure
111 | BUNDLE_ERROR_EVENT | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
112 | DISP_SUPERVISOR_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
113 | DP_LT_FAILURE | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
114 | HEAD_RG_UNDERFLOW | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
115 | CORE_CHANNEL_REGS | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
116 | WINDOW_CHANNEL_REGS | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
117 | CURSOR_CHANNEL_REGS | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
118 | HEAD_REGS | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
119 | GSP_RPC_TIMEOUT | RESET_GPU | firmware | the GPU's system processor (GSP) did not answer the driver
120 | GSP_ERROR | RESET_GPU | firmware | an error in the firmware of the GPU's system processor (GSP)
121 | C2C_ERROR | IGNORE | link | corrected errors on the link to a Grace CPU
122 | SPI_PMU_RPC_READ_FAIL | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
123 | SPI_PMU_RPC_WRITE_FAIL | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
124 | SPI_PMU_RPC_ERASE_FAIL | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
125 | INFOROM_FS_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
126 | CE10_ERROR | RESTART_APP | engine | copy engine 10 reported an error
127 | CE11_ERROR | RESTART_APP | engine | copy engine 11 reported an error
128 | CE12_ERROR | RESTART_APP | engine | copy engine 12 reported an error
129 | CE13_ERROR | RESTART_APP | engine | copy engine 13 reported an error
130 | CE14_ERROR | RESTART_APP | engine | copy engine 14 reported an error
131 | CE15_ERROR | RESTART_APP | engine | copy engine 15 reported an error
132 | CE16_ERROR | RESTART_APP | engine | copy engine 16 reported an error
133 | CE17_ERROR | RESTART_APP | engine | copy engine 17 reported an error
134 | CE18_ERROR | RESTART_APP | engine | copy engine 18 reported an error
135 | CE19_ERROR | RESTART_APP | engine | copy engine 19 reported an error
136 | ALI_TRAINING_FAIL | RESET_GPU | link | an NVLink could not be trained
137 | NVLINK_PRIV_ERR | IGNORE | application | a remote GPU reports an illegal access over NVLink
138 | DLA_ERROR | CONTACT_SUPPORT | unused | not expected on an A100 or newer board
139 | OFA1_ERROR | RESTART_APP | engine | optical-flow engine 1 reported an error
140 | UNRECOVERABLE_ECC_ERROR_ESCAPE | RESET_GPU | memory | an uncorrectable ECC error that was not handled further
141 | FAST_PATH_ERROR | IGNORE | engine | an error on CUDA's fast path
142 | NVENC3_ERROR | CONTACT_SUPPORT | engine | video encoder 3 reported an error
143 | GPU_INIT_ERROR | RESET_GPU | init | the GPU could not be initialised
144 | NVLINK_SAW_ERROR | WORKFLOW_NVLINK5_ERR | link | NVLink 5: unit SAW
145 | NVLINK_RLW_ERROR | WORKFLOW_NVLINK5_ERR | link | NVLink 5: unit RLW
146 | NVLINK_TLW_ERROR | WORKFLOW_NVLINK5_ERR | link | NVLink 5: unit TLW
147 | NVLINK_TREX_ERROR | WORKFLOW_NVLINK5_ERR | link | NVLink 5: unit TREX
148 | NVLINK_NVLPW_CTRL_ERROR | WORKFLOW_NVLINK5_ERR | link | NVLink 5: unit NVLPW_CTRL
149 | NVLINK_NETIR_ERROR | WORKFLOW_NVLINK5_ERR | link | NVLink 5: unit NETIR
150 | NVLINK_MSE_ERROR | WORKFLOW_NVLINK5_ERR | link | NVLink 5: unit MSE
151 | KEY_ROTATION_ERROR | RESTART_VM | software | a key could not be rotated (confidential computing)
152 | DLA_SMMU_ERROR | IGNORE | info | an address error of an accelerator that server GPUs do not have
153 | DLA_TIMEOUT | IGNORE | info | a timeout of an accelerator that server GPUs do not have
154 | GPU_RECOVERY_ACTION_CHANGED | XID_154 | vendor | the driver's recovery action for this GPU changed
155 | NVLINK_SW_DEFINED_ERROR | RESET_GPU | link | an NVLink went down on purpose, by software
156 | RESOURCE_RETIREMENT_EVENT | RESET_GPU | memory | a part of the GPU will be retired at the next reset
157 | RESOURCE_RETIREMENT_FAILURE | IGNORE | memory | a part of the GPU could not be retired: no spare is left
158 | GPU_FATAL_TIMEOUT | RESET_GPU | engine | a timeout that the GPU does not recover from
159 | CHI_NON_DATA_ERROR | CHECK_UVM | link | an error on the coherent link to the CPU
160 | CHANNEL_RETIREMENT_EVENT | IGNORE | memory | a memory channel will be repaired at the next reset
161 | CHANNEL_RETIREMENT_FAILURE | IGNORE | memory | a memory channel could not be repaired: no spare is left
162 | PSHC_REENGAGED | - | info | power smoothing works again
163 | PSHC_DISENGAGED | - | info | power smoothing was switched off, by heat or a timeout; no reset is needed
164 | PSHC_LOW_LIFETIME | - | info | the power-smoothing circuit is near its end of life
165 | PSHC_ZERO_LIFETIME | - | info | the power-smoothing circuit is at its end of life; load swings reach the supply
166 | NVLINK_SECURE_CRYPTO_ERR | - | link | traffic on a link before its encryption was set up (confidential computing)
167 | PCIE_FATAL_TIMEOUT | - | bus | a fatal timeout on PCIe
168 | REDUCED_GPU_MEMORY_CAPACITY | - | memory | errors in protected memory; seen with ECC off
169 | SEC2_HALT_ERROR | - | firmware | an internal controller halted
170 | NVLINK_SECURE_OTHER | - | link | an interrupt of a link in confidential computing
171 | UNCORRECTABLE_DRAM_ERROR | - | memory | tells that the Xid 48 beside it was in DRAM
172 | UNCORRECTABLE_SRAM_ERROR | - | memory | tells that the Xid 48 beside it was in SRAM
"""
