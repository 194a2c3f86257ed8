"""The operations of the table in ops.py as methods of a graph. Written by `python -m llmconv.top.stub`."""

from collections.abc import Sequence

from llmconv.top.graph import Value

class Methods:
    def RMSNorm(
        self,
        *operands: Value,
        name: str,
        eps: float,
        weight_keep_f32: bool = ...,
    ) -> Value: ...
    def LayerNorm(
        self,
        *operands: Value,
        name: str,
        axis: int,
        eps: float,
        normalized_shape: Sequence[int],
    ) -> Value: ...
    def MatMul(
        self,
        *operands: Value,
        name: str,
        do_relu: bool = ...,
        relu_limit: float = ...,
        right_transpose: bool = ...,
        left_transpose: bool = ...,
        output_transpose: bool = ...,
        hdim_is_batch: bool = ...,
        keep_dims: bool = ...,
        is_lora: bool = ...,
        dq_type: str = ...,
        q_group_size: int = ...,
    ) -> Value: ...
    def A16MatMul(
        self,
        *operands: Value,
        name: str,
        right_transpose: bool = ...,
        weight_bits: int,
        q_group_size: int = ...,
        dq_type: str = ...,
    ) -> Value: ...
    def Reshape(
        self,
        *operands: Value,
        name: str,
        to: Sequence[int],
        shape: Sequence[int] = ...,
        flatten_start_dim: int = ...,
    ) -> Value: ...
    def Gather(
        self,
        *operands: Value,
        name: str,
        axis: int = ...,
        keepdims: bool = ...,
        is_lora: bool = ...,
        is_scalar: bool = ...,
    ) -> Value: ...
    def Rope(
        self,
        *operands: Value,
        name: str,
        rope_mode: str = ...,
        is_permute_optimize: bool = ...,
        force_f32: bool = ...,
        mul1_round_mode: str = ...,
        mul1_saturation: bool = ...,
        mul1_shift: int = ...,
        mul2_round_mode: str = ...,
        mul2_saturation: bool = ...,
        mul2_shift: int = ...,
        add_round_mode: str = ...,
        add_saturation: bool = ...,
        add_shift: int = ...,
    ) -> Value: ...
    def Concat(
        self,
        *operands: Value,
        name: str,
        axis: int = ...,
        only_merge: bool = ...,
        do_relu: bool = ...,
        relu_limit: float = ...,
        round_mode: str = ...,
    ) -> Value: ...
    def Pad(
        self,
        *operands: Value,
        name: str,
        paddings: Sequence[int],
        val: float = ...,
        mode: str = ...,
    ) -> Value: ...
    def Tile(
        self,
        *operands: Value,
        name: str,
        tile: Sequence[int],
    ) -> Value: ...
    def Unsqueeze(
        self,
        *operands: Value,
        name: str,
        axes: Sequence[int],
    ) -> Value: ...
    def Permute(
        self,
        *operands: Value,
        name: str,
        order: Sequence[int],
    ) -> Value: ...
    def Slice(
        self,
        *operands: Value,
        name: str,
        offset: Sequence[int],
        steps: Sequence[int],
        ends: Sequence[int],
        axes: Sequence[int] = ...,
    ) -> Value: ...
    def FAttention(
        self,
        *operands: Value,
        name: str,
        scale: float,
        batch: int,
        q_head: int,
        kv_head: int,
        dim: int,
        mq: int,
        mk: int,
        keep_dims: bool = ...,
        mask_size: int = ...,
    ) -> Value: ...
    def Reduce(
        self,
        *operands: Value,
        name: str,
        axes: Sequence[int],
        keepdims: bool,
        mode: str,
        is_scalar: bool = ...,
    ) -> Value: ...
    def Sigmoid(
        self,
        *operands: Value,
        name: str,
        scale: float = ...,
        bias: float = ...,
        log: bool = ...,
        round_mode: str = ...,
    ) -> Value: ...
    def SiLU(
        self,
        *operands: Value,
        name: str,
    ) -> Value: ...
    def Swish(
        self,
        *operands: Value,
        name: str,
        beta: float = ...,
        round_mode: str = ...,
    ) -> Value: ...
    def GELU(
        self,
        *operands: Value,
        name: str,
        approx_mode: str = ...,
    ) -> Value: ...
    def Add(
        self,
        *operands: Value,
        name: str,
        do_relu: bool = ...,
        relu_limit: float = ...,
        is_scalar: bool = ...,
    ) -> Value: ...
    def Sub(
        self,
        *operands: Value,
        name: str,
        do_relu: bool = ...,
        relu_limit: float = ...,
        is_reverse: bool = ...,
        is_scalar: bool = ...,
    ) -> Value: ...
    def Mul(
        self,
        *operands: Value,
        name: str,
        do_relu: bool = ...,
        relu_limit: float = ...,
        is_scalar: bool = ...,
    ) -> Value: ...
    def MulConst(
        self,
        *operands: Value,
        name: str,
        const_val: float,
        do_relu: bool = ...,
        relu_limit: float = ...,
    ) -> Value: ...
    def AddConst(
        self,
        *operands: Value,
        name: str,
        const_val: float,
        do_relu: bool = ...,
        relu_limit: float = ...,
    ) -> Value: ...
    def Clip(
        self,
        *operands: Value,
        name: str,
        min: float,
        max: float,
    ) -> Value: ...
    def TopK(
        self,
        *operands: Value,
        name: Sequence[str],
        axis: int,
        K: int,
        largest: bool = ...,
        sorted: bool = ...,
        use_hau: bool = ...,
        replace_topk_indices: bool = ...,
    ) -> tuple[Value, Value]: ...
    def Div(
        self,
        *operands: Value,
        name: str,
        do_relu: bool = ...,
        relu_limit: float = ...,
        is_reverse: bool = ...,
        is_scalar: bool = ...,
    ) -> Value: ...
    def Softmax(
        self,
        *operands: Value,
        name: str,
        axis: int,
        log: bool = ...,
        beta: float = ...,
        round_mode: str = ...,
    ) -> Value: ...
    def Insert(
        self,
        *operands: Value,
        name: str,
        axis: int,
        offset: int,
    ) -> Value: ...
    def GatherElements(
        self,
        *operands: Value,
        name: str,
        axis: int = ...,
    ) -> Value: ...
    def ScatterElements(
        self,
        *operands: Value,
        name: str,
        axis: int,
        reduction: int = ...,
        nc_can_split: bool = ...,
    ) -> Value: ...
    def ScatterND(
        self,
        *operands: Value,
        name: str,
        reduction: int = ...,
    ) -> Value: ...
    def Compare(
        self,
        *operands: Value,
        name: str,
        mode: str = ...,
    ) -> Value: ...
    def CompareConst(
        self,
        *operands: Value,
        name: str,
        mode: str = ...,
        const_val: float,
        inversed: bool = ...,
        is_scalar: bool = ...,
    ) -> Value: ...
    def Where(
        self,
        *operands: Value,
        name: str,
        x_is_const: bool = ...,
        y_is_const: bool = ...,
        x_const_val: float = ...,
        y_const_val: float = ...,
    ) -> Value: ...
    def Trilu(
        self,
        *operands: Value,
        name: str,
        upper: int,
        diagonal: int,
    ) -> Value: ...
    def Conv(
        self,
        *operands: Value,
        name: str,
        kernel_shape: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[int],
        group: int = ...,
        weight_is_coeff: int = ...,
        dynweight_reorderd: bool = ...,
        do_relu: bool = ...,
        relu_limit: float = ...,
    ) -> Value: ...
    def Softplus(
        self,
        *operands: Value,
        name: str,
    ) -> Value: ...
    def Exp(
        self,
        *operands: Value,
        name: str,
    ) -> Value: ...
    def ConcatSlice(
        self,
        *operands: Value,
        name: str,
        axis: int,
    ) -> Value: ...
    def ChunkGatedDeltaRule(
        self,
        *operands: Value,
        name: str,
        num_k_heads: int,
        num_v_heads: int,
        d: int,
        use_qk_l2norm: bool = ...,
        scale: float,
        chunk_size: int = ...,
    ) -> Value: ...
    def RecurrentGatedDeltaRule(
        self,
        *operands: Value,
        name: str,
        num_k_heads: int,
        num_v_heads: int,
        d: int,
        use_qk_l2norm: bool = ...,
        scale: float,
    ) -> Value: ...
    def CumSum(
        self,
        *operands: Value,
        name: str,
        axis: int,
    ) -> Value: ...
